# Sourced by tests/run and examples/run from the checkout's root: makes a virtual environment in .venv with a
# Python of 3.11 or later, installing Debian's packages for that if there is none, and puts it on PATH.

fail() {
    echo "$*" >&2
    exit 1
}

find_python() {
    local name
    for name in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

install_debian_packages() {
    command -v apt-get >/dev/null || fail "need Python 3.11 or later with its venv module; install them and try again"
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

make_venv() {
    local python
    find_python >/dev/null || install_debian_packages python3
    python=$(find_python) || fail "need Python 3.11 or later, and the newest that apt-get offers here is older"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        install_debian_packages python3-venv
    fi
    [ -x .venv/bin/pip ] || "$python" -m venv .venv
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
}

make_venv
