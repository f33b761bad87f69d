#!/bin/sh
# The image's root file system: the program, the libraries that it is linked with, and a user. No shell, no
# package manager, nothing else.
#
#   docker/rootfs.sh target/release/millrace /somewhere/empty
set -eu
# The image's user may read all of it and change nothing, whoever makes it.
umask 022
program=$1
root=$2
mkdir -p "$root/usr/bin" "$root/etc/millrace" "$root/etc/ssl/certs"
cp "$program" "$root/usr/bin/millrace"
strip --strip-debug "$root/usr/bin/millrace"
# Each library at the path where the loader looks for it.
ldd "$program" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
# The roots that librdkafka trusts where the file names none.
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
echo 'millrace:x:65532:65532::/:/usr/bin/millrace' > "$root/etc/passwd"
echo 'millrace:x:65532:' > "$root/etc/group"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
