//! Compiles the .proto files with protox: no protoc has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "batch/v1/batch.proto",
        "task/v1/task.proto",
        "worker/v1/worker.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    prost_build::Config::new()
        .btree_map(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
