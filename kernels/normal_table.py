"""Normal numbers as a table, so that they are the same bits on every machine and in every language.

``T[i] = bf16(Φ⁻¹(1/2 + (i + 1/2)/4096))`` for i = 0..2047. A half word h of a stream stands for
``z = ±T[h & 0x7ff]``, minus where its bit 15 is set; bits 11 to 14 are not used. Logarithms and cosines,
which the usual transforms need, already differ between two GPUs; a lookup does not.
"""

import torch
from torch import Tensor

__all__ = ["NORMAL_TABLE_BITS", "normal_table", "signed_table"]

# A test regenerates these from scipy's norm.ppf.
_ENTRIES = """
39a0 3a71 3ac9 3b0c 3b34 3b5d 3b82 3b96 3baa 3bbf 3bd3 3be7 3bfb 3c07 3c11 3c1b
3c25 3c2f 3c39 3c44 3c4e 3c58 3c62 3c6c 3c76 3c80 3c85 3c8a 3c8f 3c94 3c99 3c9e
3ca3 3ca8 3cad 3cb2 3cb7 3cbc 3cc1 3cc6 3ccb 3cd0 3cd5 3cda 3cdf 3ce4 3ce9 3cee
3cf3 3cf8 3cfd 3d01 3d04 3d06 3d09 3d0b 3d0e 3d10 3d13 3d15 3d18 3d1a 3d1d 3d1f
3d22 3d24 3d27 3d29 3d2c 3d2e 3d31 3d33 3d36 3d38 3d3b 3d3d 3d40 3d42 3d45 3d47
3d4a 3d4c 3d4f 3d51 3d54 3d56 3d59 3d5b 3d5e 3d60 3d63 3d65 3d68 3d6a 3d6d 3d70
3d72 3d75 3d77 3d7a 3d7c 3d7f 3d81 3d82 3d83 3d84 3d86 3d87 3d88 3d89 3d8b 3d8c
3d8d 3d8e 3d90 3d91 3d92 3d93 3d95 3d96 3d97 3d98 3d9a 3d9b 3d9c 3d9d 3d9f 3da0
3da1 3da2 3da4 3da5 3da6 3da8 3da9 3daa 3dab 3dad 3dae 3daf 3db0 3db2 3db3 3db4
3db5 3db7 3db8 3db9 3dba 3dbc 3dbd 3dbe 3dbf 3dc1 3dc2 3dc3 3dc4 3dc6 3dc7 3dc8
3dc9 3dcb 3dcc 3dcd 3dcf 3dd0 3dd1 3dd2 3dd4 3dd5 3dd6 3dd7 3dd9 3dda 3ddb 3ddc
3dde 3ddf 3de0 3de1 3de3 3de4 3de5 3de6 3de8 3de9 3dea 3dec 3ded 3dee 3def 3df1
3df2 3df3 3df4 3df6 3df7 3df8 3df9 3dfb 3dfc 3dfd 3dfe 3e00 3e00 3e01 3e02 3e02
3e03 3e04 3e04 3e05 3e06 3e06 3e07 3e07 3e08 3e09 3e09 3e0a 3e0b 3e0b 3e0c 3e0c
3e0d 3e0e 3e0e 3e0f 3e10 3e10 3e11 3e12 3e12 3e13 3e13 3e14 3e15 3e15 3e16 3e17
3e17 3e18 3e19 3e19 3e1a 3e1a 3e1b 3e1c 3e1c 3e1d 3e1e 3e1e 3e1f 3e20 3e20 3e21
3e21 3e22 3e23 3e23 3e24 3e25 3e25 3e26 3e26 3e27 3e28 3e28 3e29 3e2a 3e2a 3e2b
3e2c 3e2c 3e2d 3e2d 3e2e 3e2f 3e2f 3e30 3e31 3e31 3e32 3e33 3e33 3e34 3e34 3e35
3e36 3e36 3e37 3e38 3e38 3e39 3e3a 3e3a 3e3b 3e3b 3e3c 3e3d 3e3d 3e3e 3e3f 3e3f
3e40 3e41 3e41 3e42 3e42 3e43 3e44 3e44 3e45 3e46 3e46 3e47 3e48 3e48 3e49 3e4a
3e4a 3e4b 3e4b 3e4c 3e4d 3e4d 3e4e 3e4f 3e4f 3e50 3e51 3e51 3e52 3e52 3e53 3e54
3e54 3e55 3e56 3e56 3e57 3e58 3e58 3e59 3e5a 3e5a 3e5b 3e5b 3e5c 3e5d 3e5d 3e5e
3e5f 3e5f 3e60 3e61 3e61 3e62 3e62 3e63 3e64 3e64 3e65 3e66 3e66 3e67 3e68 3e68
3e69 3e6a 3e6a 3e6b 3e6b 3e6c 3e6d 3e6d 3e6e 3e6f 3e6f 3e70 3e71 3e71 3e72 3e73
3e73 3e74 3e75 3e75 3e76 3e76 3e77 3e78 3e78 3e79 3e7a 3e7a 3e7b 3e7c 3e7c 3e7d
3e7e 3e7e 3e7f 3e7f 3e80 3e80 3e81 3e81 3e81 3e82 3e82 3e82 3e83 3e83 3e83 3e84
3e84 3e84 3e85 3e85 3e85 3e86 3e86 3e86 3e87 3e87 3e87 3e88 3e88 3e88 3e88 3e89
3e89 3e89 3e8a 3e8a 3e8a 3e8b 3e8b 3e8b 3e8c 3e8c 3e8c 3e8d 3e8d 3e8d 3e8e 3e8e
3e8e 3e8f 3e8f 3e8f 3e90 3e90 3e90 3e91 3e91 3e91 3e92 3e92 3e92 3e93 3e93 3e93
3e94 3e94 3e94 3e95 3e95 3e95 3e96 3e96 3e96 3e97 3e97 3e97 3e97 3e98 3e98 3e98
3e99 3e99 3e99 3e9a 3e9a 3e9a 3e9b 3e9b 3e9b 3e9c 3e9c 3e9c 3e9d 3e9d 3e9d 3e9e
3e9e 3e9e 3e9f 3e9f 3e9f 3ea0 3ea0 3ea0 3ea1 3ea1 3ea1 3ea2 3ea2 3ea2 3ea3 3ea3
3ea3 3ea4 3ea4 3ea4 3ea5 3ea5 3ea5 3ea6 3ea6 3ea6 3ea7 3ea7 3ea7 3ea8 3ea8 3ea8
3ea9 3ea9 3ea9 3eaa 3eaa 3eaa 3eab 3eab 3eab 3eac 3eac 3eac 3ead 3ead 3ead 3eae
3eae 3eae 3eaf 3eaf 3eaf 3eb0 3eb0 3eb0 3eb1 3eb1 3eb1 3eb2 3eb2 3eb2 3eb3 3eb3
3eb3 3eb4 3eb4 3eb4 3eb5 3eb5 3eb5 3eb6 3eb6 3eb6 3eb7 3eb7 3eb7 3eb8 3eb8 3eb8
3eb9 3eb9 3eb9 3eba 3eba 3eba 3ebb 3ebb 3ebb 3ebc 3ebc 3ebc 3ebd 3ebd 3ebd 3ebe
3ebe 3ebe 3ebf 3ebf 3ebf 3ec0 3ec0 3ec0 3ec1 3ec1 3ec1 3ec2 3ec2 3ec2 3ec3 3ec3
3ec3 3ec4 3ec4 3ec4 3ec5 3ec5 3ec5 3ec6 3ec6 3ec6 3ec7 3ec7 3ec7 3ec8 3ec8 3ec8
3ec9 3ec9 3ec9 3eca 3eca 3eca 3ecb 3ecb 3ecb 3ecc 3ecc 3ecc 3ecd 3ecd 3ecd 3ece
3ece 3ece 3ecf 3ecf 3ecf 3ed0 3ed0 3ed1 3ed1 3ed1 3ed2 3ed2 3ed2 3ed3 3ed3 3ed3
3ed4 3ed4 3ed4 3ed5 3ed5 3ed5 3ed6 3ed6 3ed6 3ed7 3ed7 3ed7 3ed8 3ed8 3ed8 3ed9
3ed9 3ed9 3eda 3eda 3eda 3edb 3edb 3edb 3edc 3edc 3edc 3edd 3edd 3ede 3ede 3ede
3edf 3edf 3edf 3ee0 3ee0 3ee0 3ee1 3ee1 3ee1 3ee2 3ee2 3ee2 3ee3 3ee3 3ee3 3ee4
3ee4 3ee4 3ee5 3ee5 3ee5 3ee6 3ee6 3ee6 3ee7 3ee7 3ee8 3ee8 3ee8 3ee9 3ee9 3ee9
3eea 3eea 3eea 3eeb 3eeb 3eeb 3eec 3eec 3eec 3eed 3eed 3eed 3eee 3eee 3eee 3eef
3eef 3ef0 3ef0 3ef0 3ef1 3ef1 3ef1 3ef2 3ef2 3ef2 3ef3 3ef3 3ef3 3ef4 3ef4 3ef4
3ef5 3ef5 3ef5 3ef6 3ef6 3ef7 3ef7 3ef7 3ef8 3ef8 3ef8 3ef9 3ef9 3ef9 3efa 3efa
3efa 3efb 3efb 3efb 3efc 3efc 3efd 3efd 3efd 3efe 3efe 3efe 3eff 3eff 3eff 3f00
3f00 3f00 3f00 3f01 3f01 3f01 3f01 3f01 3f01 3f02 3f02 3f02 3f02 3f02 3f03 3f03
3f03 3f03 3f03 3f03 3f04 3f04 3f04 3f04 3f04 3f05 3f05 3f05 3f05 3f05 3f05 3f06
3f06 3f06 3f06 3f06 3f06 3f07 3f07 3f07 3f07 3f07 3f08 3f08 3f08 3f08 3f08 3f08
3f09 3f09 3f09 3f09 3f09 3f0a 3f0a 3f0a 3f0a 3f0a 3f0a 3f0b 3f0b 3f0b 3f0b 3f0b
3f0c 3f0c 3f0c 3f0c 3f0c 3f0c 3f0d 3f0d 3f0d 3f0d 3f0d 3f0e 3f0e 3f0e 3f0e 3f0e
3f0e 3f0f 3f0f 3f0f 3f0f 3f0f 3f10 3f10 3f10 3f10 3f10 3f10 3f11 3f11 3f11 3f11
3f11 3f12 3f12 3f12 3f12 3f12 3f13 3f13 3f13 3f13 3f13 3f13 3f14 3f14 3f14 3f14
3f14 3f15 3f15 3f15 3f15 3f15 3f15 3f16 3f16 3f16 3f16 3f16 3f17 3f17 3f17 3f17
3f17 3f18 3f18 3f18 3f18 3f18 3f18 3f19 3f19 3f19 3f19 3f19 3f1a 3f1a 3f1a 3f1a
3f1a 3f1b 3f1b 3f1b 3f1b 3f1b 3f1b 3f1c 3f1c 3f1c 3f1c 3f1c 3f1d 3f1d 3f1d 3f1d
3f1d 3f1e 3f1e 3f1e 3f1e 3f1e 3f1e 3f1f 3f1f 3f1f 3f1f 3f1f 3f20 3f20 3f20 3f20
3f20 3f21 3f21 3f21 3f21 3f21 3f22 3f22 3f22 3f22 3f22 3f22 3f23 3f23 3f23 3f23
3f23 3f24 3f24 3f24 3f24 3f24 3f25 3f25 3f25 3f25 3f25 3f26 3f26 3f26 3f26 3f26
3f27 3f27 3f27 3f27 3f27 3f27 3f28 3f28 3f28 3f28 3f28 3f29 3f29 3f29 3f29 3f29
3f2a 3f2a 3f2a 3f2a 3f2a 3f2b 3f2b 3f2b 3f2b 3f2b 3f2c 3f2c 3f2c 3f2c 3f2c 3f2d
3f2d 3f2d 3f2d 3f2d 3f2e 3f2e 3f2e 3f2e 3f2e 3f2f 3f2f 3f2f 3f2f 3f2f 3f30 3f30
3f30 3f30 3f30 3f31 3f31 3f31 3f31 3f31 3f32 3f32 3f32 3f32 3f32 3f33 3f33 3f33
3f33 3f33 3f34 3f34 3f34 3f34 3f34 3f35 3f35 3f35 3f35 3f35 3f36 3f36 3f36 3f36
3f36 3f37 3f37 3f37 3f37 3f37 3f38 3f38 3f38 3f38 3f38 3f39 3f39 3f39 3f39 3f39
3f3a 3f3a 3f3a 3f3a 3f3a 3f3b 3f3b 3f3b 3f3b 3f3b 3f3c 3f3c 3f3c 3f3c 3f3c 3f3d
3f3d 3f3d 3f3d 3f3d 3f3e 3f3e 3f3e 3f3e 3f3f 3f3f 3f3f 3f3f 3f3f 3f40 3f40 3f40
3f40 3f40 3f41 3f41 3f41 3f41 3f41 3f42 3f42 3f42 3f42 3f42 3f43 3f43 3f43 3f43
3f43 3f44 3f44 3f44 3f44 3f45 3f45 3f45 3f45 3f45 3f46 3f46 3f46 3f46 3f46 3f47
3f47 3f47 3f47 3f48 3f48 3f48 3f48 3f48 3f49 3f49 3f49 3f49 3f49 3f4a 3f4a 3f4a
3f4a 3f4a 3f4b 3f4b 3f4b 3f4b 3f4c 3f4c 3f4c 3f4c 3f4c 3f4d 3f4d 3f4d 3f4d 3f4e
3f4e 3f4e 3f4e 3f4e 3f4f 3f4f 3f4f 3f4f 3f4f 3f50 3f50 3f50 3f50 3f51 3f51 3f51
3f51 3f51 3f52 3f52 3f52 3f52 3f53 3f53 3f53 3f53 3f53 3f54 3f54 3f54 3f54 3f55
3f55 3f55 3f55 3f55 3f56 3f56 3f56 3f56 3f56 3f57 3f57 3f57 3f57 3f58 3f58 3f58
3f58 3f59 3f59 3f59 3f59 3f59 3f5a 3f5a 3f5a 3f5a 3f5b 3f5b 3f5b 3f5b 3f5b 3f5c
3f5c 3f5c 3f5c 3f5d 3f5d 3f5d 3f5d 3f5d 3f5e 3f5e 3f5e 3f5e 3f5f 3f5f 3f5f 3f5f
3f60 3f60 3f60 3f60 3f60 3f61 3f61 3f61 3f61 3f62 3f62 3f62 3f62 3f63 3f63 3f63
3f63 3f63 3f64 3f64 3f64 3f64 3f65 3f65 3f65 3f65 3f66 3f66 3f66 3f66 3f66 3f67
3f67 3f67 3f67 3f68 3f68 3f68 3f68 3f69 3f69 3f69 3f69 3f6a 3f6a 3f6a 3f6a 3f6b
3f6b 3f6b 3f6b 3f6b 3f6c 3f6c 3f6c 3f6c 3f6d 3f6d 3f6d 3f6d 3f6e 3f6e 3f6e 3f6e
3f6f 3f6f 3f6f 3f6f 3f70 3f70 3f70 3f70 3f71 3f71 3f71 3f71 3f72 3f72 3f72 3f72
3f72 3f73 3f73 3f73 3f73 3f74 3f74 3f74 3f74 3f75 3f75 3f75 3f75 3f76 3f76 3f76
3f76 3f77 3f77 3f77 3f77 3f78 3f78 3f78 3f78 3f79 3f79 3f79 3f79 3f7a 3f7a 3f7a
3f7a 3f7b 3f7b 3f7b 3f7b 3f7c 3f7c 3f7c 3f7c 3f7d 3f7d 3f7d 3f7e 3f7e 3f7e 3f7e
3f7f 3f7f 3f7f 3f7f 3f80 3f80 3f80 3f80 3f80 3f80 3f81 3f81 3f81 3f81 3f81 3f81
3f81 3f81 3f82 3f82 3f82 3f82 3f82 3f82 3f82 3f83 3f83 3f83 3f83 3f83 3f83 3f83
3f83 3f84 3f84 3f84 3f84 3f84 3f84 3f84 3f85 3f85 3f85 3f85 3f85 3f85 3f85 3f85
3f86 3f86 3f86 3f86 3f86 3f86 3f86 3f87 3f87 3f87 3f87 3f87 3f87 3f87 3f87 3f88
3f88 3f88 3f88 3f88 3f88 3f88 3f89 3f89 3f89 3f89 3f89 3f89 3f89 3f8a 3f8a 3f8a
3f8a 3f8a 3f8a 3f8a 3f8b 3f8b 3f8b 3f8b 3f8b 3f8b 3f8b 3f8c 3f8c 3f8c 3f8c 3f8c
3f8c 3f8c 3f8d 3f8d 3f8d 3f8d 3f8d 3f8d 3f8d 3f8e 3f8e 3f8e 3f8e 3f8e 3f8e 3f8e
3f8f 3f8f 3f8f 3f8f 3f8f 3f8f 3f8f 3f90 3f90 3f90 3f90 3f90 3f90 3f90 3f91 3f91
3f91 3f91 3f91 3f91 3f92 3f92 3f92 3f92 3f92 3f92 3f92 3f93 3f93 3f93 3f93 3f93
3f93 3f93 3f94 3f94 3f94 3f94 3f94 3f94 3f95 3f95 3f95 3f95 3f95 3f95 3f95 3f96
3f96 3f96 3f96 3f96 3f96 3f97 3f97 3f97 3f97 3f97 3f97 3f98 3f98 3f98 3f98 3f98
3f98 3f98 3f99 3f99 3f99 3f99 3f99 3f99 3f9a 3f9a 3f9a 3f9a 3f9a 3f9a 3f9b 3f9b
3f9b 3f9b 3f9b 3f9b 3f9c 3f9c 3f9c 3f9c 3f9c 3f9c 3f9d 3f9d 3f9d 3f9d 3f9d 3f9d
3f9e 3f9e 3f9e 3f9e 3f9e 3f9e 3f9f 3f9f 3f9f 3f9f 3f9f 3f9f 3fa0 3fa0 3fa0 3fa0
3fa0 3fa0 3fa1 3fa1 3fa1 3fa1 3fa1 3fa1 3fa2 3fa2 3fa2 3fa2 3fa2 3fa2 3fa3 3fa3
3fa3 3fa3 3fa3 3fa4 3fa4 3fa4 3fa4 3fa4 3fa4 3fa5 3fa5 3fa5 3fa5 3fa5 3fa5 3fa6
3fa6 3fa6 3fa6 3fa6 3fa7 3fa7 3fa7 3fa7 3fa7 3fa7 3fa8 3fa8 3fa8 3fa8 3fa8 3fa9
3fa9 3fa9 3fa9 3fa9 3faa 3faa 3faa 3faa 3faa 3faa 3fab 3fab 3fab 3fab 3fab 3fac
3fac 3fac 3fac 3fac 3fad 3fad 3fad 3fad 3fad 3fae 3fae 3fae 3fae 3fae 3faf 3faf
3faf 3faf 3faf 3fb0 3fb0 3fb0 3fb0 3fb0 3fb1 3fb1 3fb1 3fb1 3fb1 3fb2 3fb2 3fb2
3fb2 3fb2 3fb3 3fb3 3fb3 3fb3 3fb3 3fb4 3fb4 3fb4 3fb4 3fb5 3fb5 3fb5 3fb5 3fb5
3fb6 3fb6 3fb6 3fb6 3fb6 3fb7 3fb7 3fb7 3fb7 3fb8 3fb8 3fb8 3fb8 3fb8 3fb9 3fb9
3fb9 3fb9 3fba 3fba 3fba 3fba 3fba 3fbb 3fbb 3fbb 3fbb 3fbc 3fbc 3fbc 3fbc 3fbc
3fbd 3fbd 3fbd 3fbd 3fbe 3fbe 3fbe 3fbe 3fbf 3fbf 3fbf 3fbf 3fc0 3fc0 3fc0 3fc0
3fc1 3fc1 3fc1 3fc1 3fc1 3fc2 3fc2 3fc2 3fc2 3fc3 3fc3 3fc3 3fc3 3fc4 3fc4 3fc4
3fc4 3fc5 3fc5 3fc5 3fc6 3fc6 3fc6 3fc6 3fc7 3fc7 3fc7 3fc7 3fc8 3fc8 3fc8 3fc8
3fc9 3fc9 3fc9 3fc9 3fca 3fca 3fca 3fcb 3fcb 3fcb 3fcb 3fcc 3fcc 3fcc 3fcd 3fcd
3fcd 3fcd 3fce 3fce 3fce 3fce 3fcf 3fcf 3fcf 3fd0 3fd0 3fd0 3fd1 3fd1 3fd1 3fd1
3fd2 3fd2 3fd2 3fd3 3fd3 3fd3 3fd4 3fd4 3fd4 3fd4 3fd5 3fd5 3fd5 3fd6 3fd6 3fd6
3fd7 3fd7 3fd7 3fd8 3fd8 3fd8 3fd9 3fd9 3fd9 3fda 3fda 3fda 3fdb 3fdb 3fdb 3fdc
3fdc 3fdc 3fdd 3fdd 3fdd 3fde 3fde 3fde 3fdf 3fdf 3fdf 3fe0 3fe0 3fe1 3fe1 3fe1
3fe2 3fe2 3fe2 3fe3 3fe3 3fe4 3fe4 3fe4 3fe5 3fe5 3fe5 3fe6 3fe6 3fe7 3fe7 3fe7
3fe8 3fe8 3fe9 3fe9 3fea 3fea 3fea 3feb 3feb 3fec 3fec 3fec 3fed 3fed 3fee 3fee
3fef 3fef 3ff0 3ff0 3ff0 3ff1 3ff1 3ff2 3ff2 3ff3 3ff3 3ff4 3ff4 3ff5 3ff5 3ff6
3ff6 3ff7 3ff7 3ff8 3ff8 3ff9 3ff9 3ffa 3ffa 3ffb 3ffb 3ffc 3ffc 3ffd 3ffe 3ffe
3fff 3fff 4000 4000 4000 4001 4001 4001 4002 4002 4002 4003 4003 4003 4004 4004
4004 4005 4005 4005 4006 4006 4006 4007 4007 4007 4008 4008 4008 4009 4009 400a
400a 400a 400b 400b 400c 400c 400d 400d 400d 400e 400e 400f 400f 4010 4010 4011
4011 4012 4012 4013 4013 4014 4015 4015 4016 4016 4017 4018 4018 4019 401a 401a
401b 401c 401d 401d 401e 401f 4020 4021 4022 4023 4024 4025 4026 4027 4028 402a
402b 402c 402e 402f 4031 4033 4035 4037 403a 403d 4040 4044 4049 404f 4058 406b
"""

NORMAL_TABLE_BITS = tuple(int(entry, 16) for entry in _ENTRIES.split())
"""T as 2048 bf16 bit patterns."""


def normal_table(device: torch.device | str | None = None) -> Tensor:
    """T as bf16 [2048] on `device`."""
    # All entries are positive, so their patterns are below 2**15.
    return torch.tensor(NORMAL_TABLE_BITS, dtype=torch.int16, device=device).view(torch.bfloat16)


def signed_table(
    scale: float, dtype: torch.dtype = torch.bfloat16, device: torch.device | str | None = None
) -> Tensor:
    """``fp32(scale)·z`` for each of the 65,536 half words, rounded once to `dtype`, to nearest even.

    Args:
        scale: Taken as fp32. For a dtype other than bfloat16 a power of two.
        dtype: bfloat16, float16 or float32.
        device: Where the table goes.

    Returns:
        `dtype` [65536].
    """
    # 24 significant bits times 8: exact in float64. From there PyTorch would round to 16 bits by way of
    # float32, which is twice; only a product with a power of two is exact in float32.
    scaled = normal_table().double() * torch.tensor(scale, dtype=torch.float32).double()
    values = _round_to_bfloat16(scaled) if dtype == torch.bfloat16 else scaled.to(torch.float32).to(dtype)
    positive = values.repeat(16)
    return torch.cat((positive, -positive)).to(device)


def _round_to_bfloat16(values: Tensor) -> Tensor:
    """Float64 to bf16 in one rounding, for values in bf16's normal range."""
    # float64 has 52 bits of fraction and bf16 has 7: drop 45, ties to even.
    bits = values.view(torch.int64)
    bits = (bits + (2**44 - 1) + ((bits >> 45) & 1)) >> 45 << 45
    return bits.view(torch.float64).to(torch.bfloat16)
