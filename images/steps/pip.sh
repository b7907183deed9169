# shellcheck shell=sh
# To be sourced: `pip` for /opt/venv without a network, run out of its own wheel, so that it is in no image.
# What is published as source alone is built by the setuptools of the lock.
pip() {
    command=$1
    shift
    [ -d /tmp/setuptools ] || python3 -m zipfile -e /tools/setuptools-*.whl /tmp/setuptools
    PYTHONPATH=/tmp/setuptools python3 "$(echo /tools/pip-*.whl)/pip" --python /opt/venv/bin/python --quiet \
        --disable-pip-version-check --no-cache-dir "$command" --no-index --no-deps --no-build-isolation "$@"
}
