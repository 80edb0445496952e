// Open-loop load on one model with real inputs: goodput, budget and accuracy besides latency.
//
//   python -m loadtests.export --model fashion-resnet --out requests.json
//   k6 run -e REQUESTS=requests.json -e RATE=300 -e SPIKE=900 loadtests/k6/infer.js
//
// URL (http://127.0.0.1:8000), KEY (API key), RATE (requests/s), SPIKE (requests/s, 10 s in the middle), REQUESTS (file;
// k6 resolves it from this script's folder, so give an absolute path when it lies elsewhere).
import http from 'k6/http';
import exec from 'k6/execution';
import { SharedArray } from 'k6/data';
import { Rate, Trend } from 'k6/metrics';

const URL = __ENV.URL || 'http://127.0.0.1:8000';
const RATE = Number(__ENV.RATE || 100);
const SPIKE = Number(__ENV.SPIKE || RATE);

const exported = new SharedArray('requests', () => {
  const file = JSON.parse(open(__ENV.REQUESTS || 'requests.json'));
  return file.requests.map((request) => ({
    path: file.path,
    deadline: file.deadline_ms,
    body: JSON.stringify(request.body),
    label: request.label,
  }));
});

const onTime = new Rate('swan_on_time');
const right = new Rate('swan_right_answer');
const budget = new Trend('swan_budget');

export const options = {
  scenarios: {
    spike: {
      executor: 'ramping-arrival-rate',
      startRate: RATE,
      timeUnit: '1s',
      preAllocatedVUs: 200,
      maxVUs: 2000,
      stages: [
        { duration: '10s', target: RATE },
        { duration: '0s', target: SPIKE },
        { duration: '10s', target: SPIKE },
        { duration: '0s', target: RATE },
        { duration: '10s', target: RATE },
      ],
    },
  },
  thresholds: { swan_on_time: ['rate>0.995'] },
};

export default function () {
  const request = exported[exec.scenario.iterationInTest % exported.length];
  const headers = { 'Content-Type': 'application/json' };
  if (__ENV.KEY) headers.Authorization = `Bearer ${__ENV.KEY}`;
  const response = http.post(URL + request.path, request.body, { headers });
  // Refused requests (503 with Retry-After) are answers, but not on time.
  onTime.add(response.status === 200 && response.timings.duration <= request.deadline);
  if (response.status !== 200) return;
  const answer = response.json();
  budget.add(answer.parameters.quality_budget);
  if (request.label !== null) {
    const scores = answer.outputs[0].data;
    right.add(scores.indexOf(Math.max(...scores)) === request.label);
  }
}
