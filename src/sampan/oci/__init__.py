"""The standards as types: no I/O, no policy, no kernel.

``runtime`` follows the OCI runtime specification, ``image`` the OCI image specification,
``reference`` the grammar of image names, ``digest`` content addresses, ``platform`` GOOS/GOARCH.
"""
