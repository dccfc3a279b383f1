//! Compiles the interface with protox: a Rust compiler of `.proto` files, so that nothing but Cargo is needed to build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/cri.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Ordered, so that equal messages are equal bytes.
        .btree_map(".")
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
