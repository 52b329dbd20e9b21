# Runs in a chroot of the cloud's root: installs the fetched wheels, offline, into /opt/openstack.
export PIP_CONFIG_FILE=/dev/null
python3 -m venv /opt/openstack
/opt/openstack/bin/pip install --quiet --no-index --no-deps /opt/wheels/*.whl
# Debian's libvirt binding fits Debian's Python: no compiler needed
cp /usr/lib/python3/dist-packages/libvirt*.py /usr/lib/python3/dist-packages/libvirtmod*.so /opt/openstack/lib/python3.11/site-packages/
rm -r /opt/wheels
