#[test]
fn serial_fits_a_virtio_disk() {
    assert!(super::SERIAL.len() <= 20);
    assert!(
        std::ffi::OsStr::new(super::SERIAL)
            .as_encoded_bytes()
            .is_ascii()
    );
}
