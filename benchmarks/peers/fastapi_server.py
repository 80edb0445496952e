"""An identity model behind plain uvicorn and FastAPI, binary tensors in and out: what a small server costs at least."""

from __future__ import annotations

import json
import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response

LENGTH = "inference-header-content-length"
app = FastAPI()


@app.get("/v2/health/ready")
async def ready() -> Response:
    return Response()


@app.post("/v2/models/identity/infer")
async def infer(request: Request) -> Response:
    body = await request.body()
    length = int(request.headers[LENGTH])
    described = json.loads(body[:length])["inputs"][0]
    tensor = np.frombuffer(body, np.float32, offset=length).reshape(described["shape"])
    data = tensor.tobytes()
    output = {"name": "OUTPUT", "datatype": "FP32", "shape": described["shape"]}
    output["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"model_name": "identity", "model_version": "1", "outputs": [output]}).encode()
    return Response(head + data, media_type="application/octet-stream", headers={LENGTH: str(len(head))})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
