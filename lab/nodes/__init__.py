"""The data plane lab: one virtual machine with a real kernel, in it five nodes, a client, and a fault switch for every link."""
