# Runs in a chroot of the cloud's root: /opt/{tree,kernel,init,files} become /opt/image/{disk.qcow2,vmlinuz,initrd.img}.
# A root file system straight on the disk (no partitions, no boot loader), a kernel and a small initrd. Every process of the
# boot costs seconds without KVM: what a headless node does not need is masked.
R=/opt/tree W=/opt/tree/etc/systemd/system
mkdir /opt/image

# the kernel is unpacked, not installed: no initramfs-tools, no hooks on every apt run in the guest
cp -a /opt/kernel/lib/modules $R/usr/lib/
KV=$(ls $R/usr/lib/modules)
cd $R/usr/lib/modules/$KV/kernel
rm -rf sound drivers/gpu drivers/infiniband drivers/media drivers/staging drivers/usb drivers/hid drivers/input drivers/video drivers/isdn \
    drivers/mmc drivers/mtd drivers/iio drivers/md drivers/target drivers/platform drivers/hwmon drivers/leds drivers/thunderbolt drivers/vfio \
    fs/btrfs fs/xfs fs/ocfs2 fs/gfs2 fs/nfs fs/nfsd fs/cifs fs/ceph fs/f2fs fs/jfs fs/reiserfs fs/ntfs3 fs/udf fs/smb fs/afs fs/ubifs fs/erofs \
    fs/orangefs fs/9p fs/dlm fs/hfs fs/hfsplus fs/ufs fs/minix fs/squashfs \
    net/sunrpc net/ceph net/sctp net/tipc net/rds net/bluetooth net/wireless net/mac80211 net/batman-adv net/openvswitch net/dccp
depmod -b $R/usr $KV
cp /opt/kernel/boot/vmlinuz-$KV /opt/image/vmlinuz

# debconf's hook for apt asks questions ahead of an installation: seconds of Perl, for nobody
rm -rf $R/etc/apt/apt.conf.d/70debconf
rm -rf $R/etc/apt/sources.list.d/* $R/var/lib/apt/lists/* $R/var/cache/apt/* $R/etc/ssh/ssh_host_* $R/etc/resolv.conf
cp -a /opt/files/. $R/
chown -R root:root $R/etc $R/usr/local
: > $R/etc/machine-id
echo localhost > $R/etc/hostname
mkdir -p $W/multi-user.target.wants
for unit in firstboot.service firstboot-commands.service; do ln -sf ../$unit $W/multi-user.target.wants/; done
ln -sf /lib/systemd/system/systemd-networkd.service $W/multi-user.target.wants/
for unit in systemd-networkd-wait-online.service systemd-udev-settle.service getty@.service serial-getty@.service \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer \
    systemd-timesyncd.service systemd-pstore.service systemd-logind.service modprobe@.service dev-hugepages.mount dev-mqueue.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount sys-kernel-config.mount systemd-random-seed.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-journal-flush.service systemd-binfmt.service \
    systemd-remount-fs.service proc-sys-fs-binfmt_misc.automount systemd-ask-password-wall.path systemd-ask-password-console.path; do
    ln -sf /dev/null $W/$unit
done
# generators run at every daemon-reload too; sysv stays, because ipvsadm has only an init script
mkdir -p $R/etc/systemd/system-generators
for generator in $(ls $R/lib/systemd/system-generators | grep -v sysv); do ln -sf /dev/null $R/etc/systemd/system-generators/$generator; done

# initrd: busybox and the modules for the root disk, the network, and the config drive (an IDE CD-ROM)
I=/opt/initrd
mkdir -p $I/bin $I/dev $I/proc $I/sys $I/root $I/m
cp /bin/busybox $I/bin/
cp /opt/init $I/init
chmod 755 $I/init
for module in virtio_pci virtio_blk ext4 virtio_net virtio_rng ata_piix sr_mod isofs; do
    modprobe -d $R -S $KV --show-depends $module | awk '$1 == "insmod" { print $2 }' | while read -r file; do
        name=$(basename $file)
        [ -e $I/m/$name ] || { cp $file $I/m/$name; echo $name >> $I/m/order; }
    done
done
[ -s $I/m/order ]
(cd $I && find . | cpio -o -H newc --quiet | gzip -1) > /opt/image/initrd.img

truncate -s 2048M /opt/disk.raw
# a small journal: a server may be killed with the cloud, and is to boot again
mke2fs -q -t ext4 -J size=8 -E lazy_itable_init=1 -d $R /opt/disk.raw
qemu-img convert -O qcow2 /opt/disk.raw /opt/image/disk.qcow2
rm -rf /opt/disk.raw $I
