# What every task adds to its library's own runtime.
custom_imports = dict(
    imports=["focal_mm", "focal_mm.engine.hooks"], allow_failed_imports=False
)
custom_hooks = [dict(type="IterSeedHook")]
