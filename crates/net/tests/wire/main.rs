//! The transport over real sockets on 127.0.0.1.

mod audits;
mod hall;
mod hostile;
mod links;
mod messages;
