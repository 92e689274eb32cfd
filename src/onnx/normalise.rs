//! One form of every operator. To come.
