//! Element types and shapes of every value. To come.
