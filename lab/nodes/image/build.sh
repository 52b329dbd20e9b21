# Runs in a chroot of the cloud's root: /opt/{tree,kernel,init,files} become /opt/image/{disk.img,vmlinuz,initrd.img}.
# The same tree is the machine's root file system and, under an overlay, that of each node in it.
R=/opt/tree W=/opt/tree/etc/systemd/system
mkdir /opt/image

cp -a /opt/kernel/lib/modules $R/usr/lib/
KV=$(ls $R/usr/lib/modules)
cd $R/usr/lib/modules/$KV/kernel
rm -rf sound drivers/gpu drivers/infiniband drivers/media drivers/staging drivers/usb drivers/hid drivers/input drivers/video drivers/isdn \
    drivers/mmc drivers/mtd drivers/iio drivers/md drivers/target drivers/platform drivers/hwmon drivers/leds drivers/vfio \
    fs/btrfs fs/xfs fs/ocfs2 fs/gfs2 fs/nfs fs/nfsd fs/cifs fs/ceph fs/f2fs fs/jfs fs/reiserfs fs/ntfs3 fs/udf fs/smb fs/afs fs/ubifs fs/erofs \
    net/sunrpc net/ceph net/sctp net/tipc net/rds net/bluetooth net/wireless net/mac80211 net/batman-adv net/openvswitch net/dccp
depmod -b $R/usr $KV
cp /opt/kernel/boot/vmlinuz-$KV /opt/image/vmlinuz

rm -rf $R/var/lib/apt/lists/* $R/var/cache/apt/* $R/etc/ssh/ssh_host_* $R/etc/resolv.conf
cp -a /opt/files/. $R/
# for an upgrade of the package where no mirror is
mkdir -p $R/usr/local/share/lab
cp /opt/debs/*.deb $R/usr/local/share/lab/
chown -R root:root $R/etc
: > $R/etc/machine-id
mkdir -p $W/multi-user.target.wants $W/sysinit.target.wants
ln -sf ../lab-payload.service $W/sysinit.target.wants/
ln -sf ../lab-uplink.service $W/multi-user.target.wants/
ln -sf ../lab-workload.service $W/multi-user.target.wants/
for unit in systemd-networkd-wait-online.service systemd-udev-settle.service getty@.service serial-getty@.service console-getty.service \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer \
    systemd-timesyncd.service systemd-pstore.service systemd-logind.service dev-hugepages.mount dev-mqueue.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount sys-kernel-config.mount systemd-random-seed.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-journal-flush.service systemd-binfmt.service \
    systemd-remount-fs.service proc-sys-fs-binfmt_misc.automount systemd-ask-password-wall.path systemd-ask-password-console.path; do
    ln -sf /dev/null $W/$unit
done
# generators run at every daemon-reload too; sysv stays, because ipvsadm has only an init script
mkdir -p $R/etc/systemd/system-generators
for generator in $(ls $R/lib/systemd/system-generators | grep -v sysv); do ln -sf /dev/null $R/etc/systemd/system-generators/$generator; done

# initrd: busybox and the modules for the root disk
I=/opt/initrd
mkdir -p $I/bin $I/dev $I/proc $I/sys $I/root $I/m
cp /bin/busybox $I/bin/
cp /opt/init $I/init
chmod 755 $I/init
for module in virtio_pci virtio_blk ext4 virtio_net virtio_rng; do
    modprobe -d $R -S $KV --show-depends $module | awk '$1 == "insmod" { print $2 }' | while read -r file; do
        name=$(basename $file)
        [ -e $I/m/$name ] || { cp $file $I/m/$name; echo $name >> $I/m/order; }
    done
done
[ -s $I/m/order ]
(cd $I && find . | cpio -o -H newc --quiet | gzip -1) > /opt/image/initrd.img

truncate -s 2048M /opt/image/disk.img
mke2fs -q -t ext4 -E lazy_itable_init=1 -d $R /opt/image/disk.img
rm -rf $I
