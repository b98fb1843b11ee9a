#!/bin/bash
# Lets go of the removed file and leaves what lies under the mount point.
set -euo pipefail

systemctl restart tracer
