# `just` lists the recipes. Each is one or two plain commands, so that none is needed.

_default:
    @just --list --unsorted

# The relay and the load generator, as released.
build:
    cargo build --workspace --release

# Everything that CI calls a test, in debug.
test *ARGS:
    cargo test --workspace {{ARGS}}

# All of CI, or only the steps named: packages tools fmt clippy doc deny test test_release bench release fuzz.
ci *STEPS:
    .ci/run {{STEPS}}

# What is quick enough to run before each commit.
lint:
    .ci/run fmt clippy doc deny
    cargo test --test tidy

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The relay beside HAProxy and nginx, in a network namespace of its own with reno.
bench-peers *ARGS:
    cargo build --workspace --release
    cargo bench --bench peers -- {{ARGS}}

# The decoders' and the association table's criterion benches.
bench *ARGS:
    cargo bench --bench protocol_decode --bench association_table -- {{ARGS}}

# One fuzz target for some seconds; a finding becomes a file in tests/fuzz_regressions/.
fuzz TARGET SECONDS="300":
    RUSTC_BOOTSTRAP=1 cargo fuzz run {{TARGET}} -- -max_total_time={{SECONDS}}

# Replay the simulation with the seed that a failure printed.
sim SEED:
    MIDSPAN_SIM_SEED={{SEED}} cargo test --test sim -- --nocapture
