//! Random worlds from seeds.
