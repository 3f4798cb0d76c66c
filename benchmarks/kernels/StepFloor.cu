// How long does a 7B int4 decode step's weight stream take, by the way its
// phases follow each other: launches in a graph, launches with programmatic
// dependent launch, one resident kernel with a barrier over the whole grid?
// All three run the same body: a producer thread streams 16.5 KiB units by
// cp.async.bulk through a ring, 8 warps unpack and multiply, warp sums go out.
//   nvcc -O3 -gencode arch=compute_90a,code=sm_90a StepFloor.cu -o step-floor
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <vector>
#define CK(x)                                                                  \
  do {                                                                         \
    cudaError_t r = (x);                                                       \
    if (r) {                                                                   \
      printf("%s: %s\n", #x, cudaGetErrorString(r));                           \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)
constexpr int UB = 16896;
struct Phase {
  const uint8_t *w;
  const __half *x;
  __half *y;
  int units;
};
__device__ __forceinline__ uint32_t sa(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}
__device__ __forceinline__ void mbinit(uint64_t *b, int n) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(sa(b)), "r"(n));
}
__device__ __forceinline__ void mbwait(uint64_t *b, int p) {
  asm volatile("{\n.reg .pred P;\nL: mbarrier.try_wait.parity.shared.b64 P, "
               "[%0], %1, 10000000;\n@P bra D;\nbra L;\nD:\n}" ::"r"(sa(b)),
               "r"(p)
               : "memory");
}
__device__ __forceinline__ void mbarrive(uint64_t *b) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(sa(b)) : "memory");
}
__device__ __forceinline__ void fetch(void *d, const void *s, uint64_t *b) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(sa(b)),
               "r"(UB)
               : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::"
               "bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(sa(d)),
               "l"(s), "r"(UB), "r"(sa(b)), "l"(0x12F0000000000000ull)
               : "memory");
}
__device__ __forceinline__ void range(int units, int &a, int &b) {
  a = (long)blockIdx.x * units / gridDim.x;
  b = (long)(blockIdx.x + 1) * units / gridDim.x;
}
__device__ __forceinline__ void loadx(const __half *x, uint32_t (&r)[64],
                                      int lane) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half *p = x + j * 1024 + lane * 32 + i * 8;
      asm volatile("ld.relaxed.gpu.global.v4.b32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[16 * j + 4 * i]), "=r"(r[16 * j + 4 * i + 1]),
                     "=r"(r[16 * j + 4 * i + 2]), "=r"(r[16 * j + 4 * i + 3])
                   : "l"(p));
    }
}
__device__ __forceinline__ float unit(const uint8_t *s, const uint32_t (&x)[64],
                                      int warp, int lane) {
  float tot = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint4 w = *(const uint4 *)(s + warp * 2048 + j * 512 + lane * 16);
    __half sc =
        *(const __half *)(s + 16384 + warp * 64 + (lane / 4) * 2 + j * 16);
    __half2 a[2] = {__half2half2(__half(0.f)), __half2half2(__half(0.f))};
    uint32_t ww[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        uint32_t v = ww[i] >> (q / 2 * 8), b;
        asm("lop3.b32 %0, %1, %2, %3, 0xEA;"
            : "=r"(b)
            : "r"(v), "r"(q & 1 ? 0x00f000f0 : 0x000f000f), "r"(0x64006400));
        __half2 h = *(__half2 *)&b,
                xx = *(const __half2 *)&x[16 * j + 4 * i + q];
        h = q & 1
                ? __hfma2(h, __float2half2_rn(0.0625f), __float2half2_rn(-72.f))
                : __hadd2(h, __float2half2_rn(-1032.f));
        a[q & 1] = __hfma2(h, xx, a[q & 1]);
      }
    float2 f = __half22float2(__hadd2(a[0], a[1]));
    tot += (f.x + f.y) * __half2float(sc);
  }
#pragma unroll
  for (int m = 16; m; m >>= 1)
    tot += __shfl_xor_sync(~0u, tot, m);
  return tot;
}
extern __shared__ __align__(128) uint8_t smem[];
// One phase a launch (RES = 0, phases = 1) or all of them in one kernel.
template <int S, bool PDL, bool RES>
__global__ void __launch_bounds__(288)
    body(const Phase *ph, int phases, unsigned *bar) {
  uint64_t *full = (uint64_t *)(smem + S * UB), *empty = full + S;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 256) {
    for (int i = 0; i < S; ++i) {
      mbinit(full + i, 1);
      mbinit(empty + i, 8);
    }
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
  __syncthreads();
  if (PDL)
    asm volatile("griddepcontrol.launch_dependents;");
  if (warp == 8) {
    if (lane == 0) {
      int it = 0;
      for (int p = 0; p < phases; ++p) {
        int a, b;
        range(ph[p].units, a, b);
        for (int u = a; u < b; ++u, ++it) {
          mbwait(empty + it % S, (it / S & 1) ^ 1);
          fetch(smem + it % S * UB, ph[p].w + (size_t)u * UB, full + it % S);
        }
      }
    }
    return;
  }
  if (PDL)
    asm volatile("griddepcontrol.wait;" ::: "memory");
  int it = 0;
  for (int p = 0; p < phases; ++p) {
    uint32_t x[64];
    int a, b;
    range(ph[p].units, a, b);
    loadx(ph[p].x, x, lane);
    for (int u = a; u < b; ++u, ++it) {
      mbwait(full + it % S, it / S & 1);
      float t = unit(smem + it % S * UB, x, warp, lane);
      if (lane == 0) {
        mbarrive(empty + it % S);
        ph[p].y[u * 8 + warp] = __float2half(t * 1e-3f);
      }
    }
    if (RES && p + 1 < phases) {
      asm volatile("bar.sync 1, 256;" ::: "memory");
      if (threadIdx.x == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(bar)
                     : "memory");
        unsigned want = (p + 1) * gridDim.x, got;
        do
          asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                       : "=r"(got)
                       : "l"(bar)
                       : "memory");
        while (got < want);
      }
      asm volatile("bar.sync 1, 256;" ::: "memory");
    }
  }
}
template <bool PDL> __global__ void tiny(int *p) {
  if (PDL) {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
  }
  if (threadIdx.x == 0)
    p[blockIdx.x] += 1;
}
static cudaStream_t st;
template <class F> double graph(F f) {
  cudaGraph_t g;
  cudaGraphExec_t x;
  CK(cudaStreamBeginCapture(st, cudaStreamCaptureModeRelaxed));
  f();
  CK(cudaStreamEndCapture(st, &g));
  CK(cudaGraphInstantiate(&x, g, 0));
  cudaEvent_t a, b;
  CK(cudaEventCreate(&a));
  CK(cudaEventCreate(&b));
  std::vector<double> t;
  for (int i = 0; i < 25; ++i) {
    CK(cudaEventRecord(a, st));
    CK(cudaGraphLaunch(x, st));
    CK(cudaEventRecord(b, st));
    CK(cudaEventSynchronize(b));
    float ms;
    CK(cudaEventElapsedTime(&ms, a, b));
    if (i > 4)
      t.push_back(ms);
  }
  std::sort(t.begin(), t.end());
  cudaGraphExecDestroy(x);
  cudaGraphDestroy(g);
  return t[t.size() / 2];
}
template <class... A>
void go(void (*k)(A...), int grid, int block, int sm, bool pdl, A... args) {
  cudaLaunchConfig_t c{};
  c.gridDim = grid;
  c.blockDim = block;
  c.dynamicSmemBytes = sm;
  c.stream = st;
  cudaLaunchAttribute at{};
  if (pdl) {
    at.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at.val.programmaticStreamSerializationAllowed = 1;
    c.attrs = &at;
    c.numAttrs = 1;
  }
  CK(cudaLaunchKernelEx(&c, k, args...));
}
template <int S>
void row(int grid, const Phase *d, const std::vector<Phase> &h, unsigned *bar,
         double bytes) {
  int sm = S * UB + 16 * S + 64, n = h.size();
  auto k0 = body<S, false, false>;
  auto k1 = body<S, true, false>;
  auto k2 = body<S, false, true>;
  for (auto k : {k0, k1, k2})
    CK(cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize,
                            sm));
  double a = graph([&] {
    for (int p = 0; p < n; ++p)
      go(k0, grid, 288, sm, false, d + p, 1, bar);
  });
  double b = graph([&] {
    for (int p = 0; p < n; ++p)
      go(k1, grid, 288, sm, true, d + p, 1, bar);
  });
  double c = graph([&] {
    CK(cudaMemsetAsync(bar, 0, 4, st));
    go(k2, grid, 288, sm, false, d, n, bar);
  });
  printf("ring %2d grid %3d phases %3d: launches %.3f ms %4.0f GB/s | pdl %.3f "
         "ms %4.0f GB/s | resident %.3f ms %4.0f GB/s\n",
         S, grid, n, a, bytes / a / 1e6, b, bytes / b / 1e6, c,
         bytes / c / 1e6);
  fflush(stdout);
}
int main() {
  CK(cudaStreamCreateWithFlags(&st, cudaStreamNonBlocking));
  cudaDeviceProp pr;
  CK(cudaGetDeviceProperties(&pr, 0));
  printf("%s\n", pr.name);
  int *cnt;
  CK(cudaMalloc(&cnt, 4096));
  CK(cudaMemset(cnt, 0, 4096));
  for (int g : {1, 132}) {
    double a = graph([&] {
      for (int i = 0; i < 160; ++i)
        go(tiny<false>, g, 128, 0, false, cnt);
    }),
           b = graph([&] {
             for (int i = 0; i < 160; ++i)
               go(tiny<true>, g, 128, 0, true, cnt);
           });
    printf("160 empty launches of %3d blocks: %.2f us each, programmatic %.2f "
           "us each\n",
           g, a * 1e3 / 160, b * 1e3 / 160);
  }
  const int L = 32;
  int N[4] = {12288, 4096, 22016, 11008};
  size_t per = 0;
  for (int n : N)
    per += (size_t)n / 8 * UB;
  size_t tot = per * L;
  uint8_t *w;
  CK(cudaMalloc(&w, tot));
  std::vector<uint32_t> rnd(16 << 20);
  uint32_t s = 1;
  for (auto &v : rnd) {
    s = s * 1664525u + 1013904223u;
    v = (s >> 3) & 0x3bff3bff;
  }
  for (size_t o = 0; o < tot; o += rnd.size() * 4)
    CK(cudaMemcpy(w + o, rnd.data(), std::min(rnd.size() * 4, tot - o),
                  cudaMemcpyHostToDevice));
  __half *x;
  CK(cudaMalloc(&x, 1 << 20));
  std::vector<uint16_t> hx(1 << 19);
  for (auto &v : hx) {
    s = s * 1664525u + 1013904223u;
    v = 0x2000 | (s >> 8 & 0x83ff);
  }
  CK(cudaMemcpy(x, hx.data(), 1 << 20, cudaMemcpyHostToDevice));
  unsigned *bar;
  CK(cudaMalloc(&bar, 256));
  std::vector<Phase> h;
  for (int l = 0; l < L; ++l) {
    size_t o = per * l;
    for (int i = 0; i < 4; ++i) {
      h.push_back({w + o, x + (h.size() & 1) * 65536,
                   x + ((h.size() + 1) & 1) * 65536, N[i] / 8});
      o += (size_t)N[i] / 8 * UB;
    }
  }
  std::vector<Phase> h5;
  for (size_t i = 0; i < h.size(); ++i) {
    h5.push_back(h[i]);
    if (i % 4 == 0)
      h5.push_back({w, x, x + 131072, 132});
  }
  std::vector<Phase> h1;
  for (int q = 0; q < 4; ++q)
    h1.push_back({w + per * 8 * q, x, x + 131072, (int)(per * 8 / UB)});
  Phase *d, *d5, *d1;
  CK(cudaMalloc(&d, h.size() * sizeof(Phase)));
  CK(cudaMalloc(&d5, h5.size() * sizeof(Phase)));
  CK(cudaMalloc(&d1, h1.size() * sizeof(Phase)));
  CK(cudaMemcpy(d, h.data(), h.size() * sizeof(Phase), cudaMemcpyHostToDevice));
  CK(cudaMemcpy(d5, h5.data(), h5.size() * sizeof(Phase),
                cudaMemcpyHostToDevice));
  CK(cudaMemcpy(d1, h1.data(), h1.size() * sizeof(Phase),
                cudaMemcpyHostToDevice));
  // h1's outputs need 395264 halves each.
  __half *big;
  CK(cudaMalloc(&big, 2 << 20));
  for (auto &p : h1)
    p.y = big;
  CK(cudaMemcpy(d1, h1.data(), h1.size() * sizeof(Phase),
                cudaMemcpyHostToDevice));
  printf("bytes a step %.3f GB\n", tot / 1e9);
  for (auto *v : {&h, &h5, &h1}) {
    const Phase *dd = v == &h ? d : v == &h5 ? d5 : d1;
    row<6>(132, dd, *v, bar, tot);
    row<12>(132, dd, *v, bar, tot);
    row<3>(264, dd, *v, bar, tot);
    row<4>(264, dd, *v, bar, tot);
  }
  CK(cudaDeviceSynchronize());
}
