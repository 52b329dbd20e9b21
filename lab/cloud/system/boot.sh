#!/bin/sh
# First process of the cloud's own mount, network, process, host name and IPC namespaces. Nothing of it is seen outside, and all of it
# ends with this process. Arguments: what lasts (/srv inside), the layers (colon separated), the image (/opt/image), the schema cache (/opt/schema).
set -eu
state=$1 layers=$2 image=$3 schema=$4
exec 9> "$state/alive"
flock -n 9
# /proc is still the host's, so this is our pid as the host sees it
read -r pid _ < /proc/self/stat
echo "$pid" > "$state/pid"

mounts=$state/mounts
root=$mounts/root
mkdir -p "$mounts"
mount -t tmpfs -o mode=755 cloud "$mounts"
mkdir "$mounts/upper" "$mounts/work" "$root"
mount -t overlay -o "lowerdir=$layers,upperdir=$mounts/upper,workdir=$mounts/work" cloud "$root"
mkdir -p "$root/opt/image" "$root/opt/schema"
mount --bind "$state" "$root/srv"
mount --bind -o ro "$image" "$root/opt/image"
mount --bind "$schema" "$root/opt/schema"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"

# A /dev of its own, with kvm only where it can be used: a /dev/kvm that opens but does not work has libvirt probe QEMU again on
# every call, seconds each. ptmx must be a link into the devpts of this /dev, or libvirt fails to create a PTY.
mount -t tmpfs -o mode=755 dev "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
nodes="null zero full random urandom tty net/tun"
[ -z "${KVM:-}" ] || nodes="$nodes kvm"
for node in $nodes; do
    : > "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done

hostname cloud
echo "127.0.0.1 localhost cloud gateway $(seq -s ' ' -f 'node%.0f' 5)" > "$root/etc/hosts"
: > "$root/etc/resolv.conf"
ip link set lo up
exec chroot "$root" /usr/bin/env -i PATH=/opt/ovn/bin:/opt/openstack/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/srv/code PYTHONDONTWRITEBYTECODE=1 \
    LC_ALL=C.UTF-8 HOME=/root /usr/bin/python3 -m lab.cloud.system.init
