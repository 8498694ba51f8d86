//! Tests of what an edit does to attributes.
