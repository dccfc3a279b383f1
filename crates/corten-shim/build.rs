//! Compiles the messages with protox: a Rust compiler of `.proto` files, so that nothing
//! but Cargo is needed to build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 7] = [
        "proto/bootstrap.proto",
        "proto/corten.proto",
        "proto/events.proto",
        "proto/metrics.proto",
        "proto/sandbox.proto",
        "proto/task.proto",
        "proto/ttrpc.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new()
        // Ordered, so that equal messages are equal bytes.
        .btree_map(["."])
        .compile_fds(files)?;
    Ok(())
}
