//! Gives the crate the `Py_3_12`, `Py_GIL_DISABLED`, ... cfgs of the interpreter it is built for.
fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
