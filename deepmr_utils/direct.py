def direct_effects(effects, allowed):  # TEMPORARY
    raise NotImplementedError
