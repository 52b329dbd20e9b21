"""What the cloud's operator offers: image, flavour, external network. Run again, it replaces only an image that was built anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openstack

from lab.phases import wait_for

IMAGE, FLAVOR, EXTERNAL, EXTERNAL_V6 = "debian-12", "m1.medium", "public", "public-v6"
FILES = Path("/opt/image/image")
COMMAND_LINE = " ".join([
    "console=ttyS0 quiet mitigations=off audit=0 net.ifnames=0 systemd.show_status=0 no_timer_check",
    # Open vSwitch in user space passes on what a guest leaves to "checksum offload" unfinished: ping works, TCP never connects
    "virtio_net.csum=0 virtio_net.gso=0",
])  # fmt: skip


def offer_image(cloud: Any, content: str) -> None:
    current = cloud.image.find_image(IMAGE)
    if current and current.properties.get("content") == content:
        return
    if current and any(cloud.compute.servers(all_projects=True)):
        print(f"{IMAGE} was built anew; the old one stays while there are servers, which were made from it")
        return
    for name in (IMAGE, f"{IMAGE}-kernel", f"{IMAGE}-initrd"):
        if old := cloud.image.find_image(name):
            cloud.image.delete_image(old)

    def upload(name: str, file: str, disk_format: str, container_format: str, **properties: str) -> str:
        with (FILES / file).open("rb") as data:
            made = cloud.image.create_image(name=name, disk_format=disk_format, container_format=container_format, visibility="public", data=data, **properties)
        return str(made.id)

    kernel = upload(f"{IMAGE}-kernel", "vmlinuz", "aki", "aki")
    initrd = upload(f"{IMAGE}-initrd", "initrd.img", "ari", "ari")
    # pc, not q35: the config drive is then an IDE CD-ROM; Debian's cloud kernel has a driver for that but none for AHCI
    upload(
        IMAGE, "disk.qcow2", "qcow2", "bare", kernel_id=kernel, ramdisk_id=initrd, os_command_line=COMMAND_LINE, hw_machine_type="pc",
        hw_rng_model="virtio", content=content,
    )  # fmt: skip


def offer_network(cloud: Any) -> None:
    network = cloud.network.find_network(EXTERNAL) or cloud.network.create_network(
        name=EXTERNAL, is_router_external=True, provider_network_type="flat", provider_physical_network="public"
    )
    if not cloud.network.find_subnet(EXTERNAL):
        cloud.network.create_subnet(
            network_id=network.id, name=EXTERNAL, ip_version=4, cidr="203.0.113.0/24", gateway_ip="203.0.113.1", is_dhcp_enabled=False,
            allocation_pools=[{"start": "203.0.113.20", "end": "203.0.113.200"}],
        )  # fmt: skip
    if not cloud.network.find_subnet(EXTERNAL_V6):
        cloud.network.create_subnet(
            network_id=network.id, name=EXTERNAL_V6, ip_version=6, cidr="2001:db8:0:ff::/64", gateway_ip="2001:db8:0:ff::1", is_dhcp_enabled=False,
            allocation_pools=[{"start": "2001:db8:0:ff::20", "end": "2001:db8:0:ff::200"}],
        )  # fmt: skip


def warm_up(tenant: Any) -> None:
    """Neutron may refuse (403) the first request to make something; have that happen to a network that no one needs."""

    def made() -> tuple[bool, str]:
        try:
            tenant.network.delete_network(tenant.network.create_network(name="warm-up"))
        except openstack.exceptions.SDKException as error:
            return False, str(error)
        return True, "made and deleted a network"

    wait_for("Neutron to accept a network", made, 120, poll_s=1)


def main() -> None:
    cloud = openstack.connect(cloud="admin")
    offer_image(cloud, Path("/srv/image-key").read_text())
    if not cloud.compute.find_flavor(FLAVOR):
        cloud.compute.create_flavor(name=FLAVOR, ram=256, vcpus=1, disk=2)
    warm_up(openstack.connect(cloud="local"))
    offer_network(cloud)


if __name__ == "__main__":
    main()
