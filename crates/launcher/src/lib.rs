//! The VMs of one environment: network namespace, QEMU, QMP, snapshot and clone, guest link, stream server.
