#!/bin/sh
touch /var/lib/orders/maintenance
rm -f /var/lib/orders/released
