"""openshift-lvs: the program that every host receives unchanged. Standard library only, Python 3.9 or newer."""
