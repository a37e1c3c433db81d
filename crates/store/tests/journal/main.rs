//! The journal over the simulated disk.

mod common;
mod crash;
mod damage;
mod full;
mod group;
