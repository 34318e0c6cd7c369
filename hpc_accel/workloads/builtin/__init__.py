"""The built-in workloads: each file has a `build()` that returns a Workload, as a user's own module does.

mlp, digits, vision (resnet, vit, images), lm (transformer, text), hf     small to very large networks
synthetic                        data without a source, for sizes
imaging, driving (driving_record, driving_expert), risk    applications, whose packages are extras
metrics, cache, optional_packages    figures of merit; data made once; what an extra lacks

`study/builtin_workloads.py` names them for studies, without torch.
"""
