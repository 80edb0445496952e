#!/usr/bin/env bash
# Builds the image with buildah: no daemon, no container engine. As root (or with user namespaces set up for buildah).
#   deploy/image/build.sh [IMAGE]         default: swan-serve:0.1.0
# PYTHON_IMAGE   base image; without it, and where no registry can be reached, one is made of Debian by debootstrap
# TORCH          cpu (default) or cuda;  TORCH_PIP_ARGS: where the CPU build of torch is, as for pip
# pip's own settings on this machine (index, certificate, folders of wheels) hold in the build too.
set -euo pipefail
cd "$(dirname "$0")/../.."
image=${1:-swan-serve:0.1.0}
debian_base=localhost/swan-python:3.11
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

debian() {
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$work/rootfs" >"$work/log" \
        || { tail "$work/log"; exit 1; }
    ln -s /usr/bin/python3 "$work/rootfs/usr/local/bin/python"
    rm -rf "$work"/rootfs/usr/lib/python3.*/EXTERNALLY-MANAGED "$work"/rootfs/var/lib/apt/lists/* "$work"/rootfs/var/cache/apt/archives/*.deb
    local container mounted
    container=$(buildah from scratch)
    mounted=$(buildah mount "$container")
    cp -a "$work/rootfs/." "$mounted/"
    buildah umount "$container" >/dev/null
    buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
    buildah commit -q --rm "$container" "$debian_base" >/dev/null
    rm -rf "$work/rootfs"
}

if [ -z "${PYTHON_IMAGE:-}" ]; then
    PYTHON_IMAGE=$debian_base
    buildah inspect --type image "$debian_base" >/dev/null 2>&1 || debian
fi

# pip's settings as one file, and every path that they name as a read-only mount.
mounts=()
python3 -m pip config list | python3 deploy/image/pip_settings.py >"$work/pip.conf"
mounts+=(--volume "$work/pip.conf:/etc/pip.conf:ro")
for path in $(grep -oE '(^|[ =]|file://)/[^ ]+' "$work/pip.conf" | sed -E 's#^(file://|[ =])##' | sort -u); do
    path=${path%/simple}  # an index in a folder keeps its files beside `simple`
    if [ -e "$path" ]; then mounts+=(--volume "$path:$path:ro"); fi
done

buildah bud --layers --format docker -f Dockerfile -t "$image" "${mounts[@]}" \
    --build-arg PYTHON_IMAGE="$PYTHON_IMAGE" \
    --build-arg TORCH="${TORCH:-cpu}" \
    --build-arg TORCH_PIP_ARGS="${TORCH_PIP_ARGS:-}" \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" .
buildah images "$image"
