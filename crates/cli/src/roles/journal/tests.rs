//! The router's book over a disk that fails, loses power, fills up and forgets.

mod crash;
mod workload;
