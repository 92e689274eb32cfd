//! What Selvedge promises, checked from outside the library, over real sockets and files.

mod serve;
