"""A Pulumi component plugin: other Pulumi programs, in any language, make a whole cluster with `openshift-lvs:Cluster`.

    arguments   the argument types, made from the model of components/configuration, and the way back to the model
    cluster     the component
    provider    what serves it to the engine, and turns a refusal of the model into one of an argument

The root's `__main__.py` is the program. This folder adds no key, no default and no rule.
"""
