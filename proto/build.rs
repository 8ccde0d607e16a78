//! Compiles `protos/` with a pure-Rust protobuf compiler, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=protos");
    let files = protox::compile(
        [
            "farspan/v1/cell_query.proto",
            "farspan/v1/collector_log.proto",
            "farspan/v1/metadata_replication.proto",
        ],
        ["protos"],
    )?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
