//! The wire: messages between spotreel's own programs, made from the .proto files beside this folder.

pub mod batch {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/spotreel.batch.v1.rs"));
    }
}

pub mod task {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/spotreel.task.v1.rs"));
    }
}

pub mod worker {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/spotreel.worker.v1.rs"));
    }
}
