# Sourced by the stages that play in network namespaces: what they need, and an end that leaves nothing behind.

skip() {
    echo "$*"
    exit 77
}

# All names of ours begin with this one, so that two runs do not meet.
export PREFIX=hw$$

remove_namespaces() {
    local name
    for name in $(ip netns list 2>/dev/null | awk -v prefix="$PREFIX-" 'index($1, prefix) == 1 { print $1 }'); do
        # Whoever runs in there was started by us.
        ip netns pids "$name" | xargs -r kill -KILL 2>/dev/null
        ip netns del "$name"
    done
}

need() { # tools
    local tool
    [ "$(uname -s)" = Linux ] || skip "network namespaces are Linux's"
    [ "$(id -u)" = 0 ] || skip "needs root, for network namespaces"
    for tool in ip python3 "$@"; do
        command -v "$tool" >/dev/null || skip "$tool is not installed"
    done
    trap remove_namespaces EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
}

build_program() {
    if [ -z "${HEARTWIRE:-}" ]; then
        cargo build --locked --release || exit 1
        export HEARTWIRE=${CARGO_TARGET_DIR:-target}/release/heartwire
    fi
}

# Runs a program in Python that uses the modules beside this file. In the background, because a shell hears of signals
# only between its commands, and while it waits.
drive() { # script, arguments
    local driver
    PYTHONPATH=$PWD/tests/support python3 -B "$@" &
    driver=$!
    trap 'kill '"$driver"'; wait '"$driver"'; exit 143' TERM INT
    wait "$driver"
}
