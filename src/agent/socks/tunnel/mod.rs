//! Going out by a tunnel of jProxy: one of each shard, and in it a channel for each connection.

pub mod url;
