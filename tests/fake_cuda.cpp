// The driver of NVIDIA, NVRTC and NCCL as one library that needs no GPU: kernels run in the emulator. It stands in for
// libcuda.so.1, libnvrtc.so.13 and libnccl.so.2 where tests/cuda_dlopen.c tests what tinytl_cuda.h does with them. FAKE_CUDA says
// what is to go wrong: "no-device", "no-compile", "new-gpu" (NVRTC does not know the GPU), "old-gpu", "no-module".

#include <math.h>
#include "emulator.h"
#define __CUDACC_RTC__ 1                    // the kernels alone
#define TINYTL_CUDA_IMPLEMENTATION
#include "../tinytl_cuda.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

struct fake_kernel {
    const char *name;
    void (*invoke)(const void *);
    size_t params;
};

#define FAKE_ENTRY2(name, P)                                                                                  \
    { "tl_cuda_" #name "_f32", emu_invoke<tl__cu_##P, tl_cuda_##name##_f32>, sizeof(tl__cu_##P) },            \
    { "tl_cuda_" #name "_bf16", emu_invoke<tl__cu_##P, tl_cuda_##name##_bf16>, sizeof(tl__cu_##P) },
#define FAKE_ENTRY(name, P) { "tl_cuda_" #name, emu_invoke<tl__cu_##P, tl_cuda_##name>, sizeof(tl__cu_##P) },
static const fake_kernel kernels[] = { TL__CU_TYPED(FAKE_ENTRY2) TL__CU_FLOAT(FAKE_ENTRY) };

typedef std::vector<std::function<int()> > fake_graph;
static fake_graph *recording;
static void *current;                       // context
static char the_context, the_module;
static int  open_things, compiled;          // what has not been given back; programs compiled so far

EXPORT int fake_cuda_open(void) { return open_things + (int)emu_blocks.size(); }
EXPORT int fake_cuda_compiled(void) { return compiled; }

static int asked(const char *what)
{
    const char *wish = getenv("FAKE_CUDA");
    return wish && strcmp(wish, what) == 0;
}

static int run_or_record(const std::function<int()> &what)
{
    if (current != &the_context) return 201;                       // CUDA_ERROR_INVALID_CONTEXT
    if (!recording) return what();
    recording->push_back(what);
    return 0;
}

EXPORT int cuInit(unsigned) { return asked("no-device") ? 100 : 0; }
EXPORT int cuGetErrorString(int code, const char **text)
{
    if (code != 700) emu_clear();
    *text = code == 100 ? "no CUDA-capable device is detected" : code == 700 ? emu_message : "a fake error";
    return 0;
}
EXPORT int cuDeviceGet(int *device, int number) { *device = number; return number > 1 ? 101 : 0; }
EXPORT int cuDeviceGetName(char *name, int size, int device) { snprintf(name, (size_t)size, "fake %d", device); return 0; }
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int)
{
    *value = attribute == 75 ? (asked("old-gpu") ? 7 : asked("new-gpu") ? 99 : 9) : attribute == 97 ? 232448 : 0;
    return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int) { *context = &the_context; open_things++; return 0; }
EXPORT int cuDevicePrimaryCtxRelease_v2(int) { open_things--; return 0; }
EXPORT int cuCtxSetCurrent(void *context) { current = context; return 0; }
EXPORT int cuMemGetInfo_v2(size_t *left, size_t *total)
{
    *total = emu_memory_limit;
    *left = emu_memory_limit - emu_memory_used;
    return 0;
}
EXPORT int cuMemAlloc_v2(unsigned long long *p, size_t bytes) { *p = (uintptr_t)emu_alloc(bytes); return *p ? 0 : 2; }
EXPORT int cuMemFree_v2(unsigned long long p) { return emu_release((void *)(uintptr_t)p); }
EXPORT int cuMemAllocHost_v2(void **p, size_t bytes) { *p = malloc(bytes); open_things++; return *p ? 0 : 2; }
EXPORT int cuMemFreeHost(void *p) { free(p); open_things--; return 0; }
EXPORT int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *)
{
    return run_or_record([=]() { memcpy((void *)(uintptr_t)to, from, bytes); return 0; });
}
EXPORT int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *)
{
    return run_or_record([=]() { memcpy(to, (void *)(uintptr_t)from, bytes); return 0; });
}
EXPORT int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void *)
{
    return run_or_record([=]() { memset((void *)(uintptr_t)to, value, bytes); return 0; });
}
EXPORT int cuStreamCreate(void **stream, unsigned flags) { *stream = &the_context; open_things++; return flags != 1; }
EXPORT int cuStreamDestroy_v2(void *) { open_things--; return 0; }
EXPORT int cuStreamSynchronize(void *) { return recording ? 900 : 0; }
EXPORT int cuModuleLoadData(void **module, const void *image)
{
    if (asked("no-module") || strncmp((const char *)image, "code for ", 9)) return 200;      // CUDA_ERROR_INVALID_IMAGE
    *module = &the_module;
    open_things++;
    return 0;
}
EXPORT int cuModuleUnload(void *) { open_things--; return 0; }
EXPORT int cuModuleGetFunction(void **function, void *, const char *name)
{
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (strcmp(kernels[i].name, name) == 0) { *function = (void *)(uintptr_t)&kernels[i]; return 0; }
    return 500;                                                     // CUDA_ERROR_NOT_FOUND
}
EXPORT int cuFuncSetAttribute(void *, int attribute, int) { return attribute != 8; }
EXPORT int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned block, unsigned, unsigned, unsigned shared,
                          void *, void **arguments, void **)
{
    const fake_kernel *kernel = (const fake_kernel *)function;
    std::vector<char> copy((const char *)arguments[0], (const char *)arguments[0] + kernel->params);
    return run_or_record([=]() {
        unsigned grid[3] = { x, y, z };
        return emu_launch(kernel->name, kernel->invoke, copy.data(), grid, block, shared, 232448) ? 700 : 0;
    });
}
EXPORT int cuStreamBeginCapture_v2(void *, int mode) { recording = new fake_graph; return mode != 1; }
EXPORT int cuStreamEndCapture(void *, void **graph) { *graph = recording; recording = NULL; return 0; }
EXPORT int cuGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long)
{
    *ready = new fake_graph(*(fake_graph *)graph);
    open_things++;
    return 0;
}
EXPORT int cuGraphLaunch(void *ready, void *)
{
    for (size_t i = 0; i < ((fake_graph *)ready)->size(); i++)
        if (int code = (*(fake_graph *)ready)[i]()) return code;
    return 0;
}
EXPORT int cuGraphDestroy(void *graph) { delete (fake_graph *)graph; return 0; }
EXPORT int cuGraphExecDestroy(void *ready) { delete (fake_graph *)ready; open_things--; return 0; }

// ---- NVRTC ---------------------------------------------------------------------------------

struct fake_program {
    std::string text, image, log;
};

EXPORT int nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return 0; }
EXPORT int nvrtcCreateProgram(void **program, const char *text, const char *, int, const char *const *, const char *const *)
{
    fake_program *made = new fake_program;
    made->text = text;
    *program = made;
    open_things++;
    return 0;
}
EXPORT int nvrtcCompileProgram(void *program_, int count, const char *const *options)
{
    fake_program *program = (fake_program *)program_;
    std::string arch;
    int implements = 0;
    for (int i = 0; i < count; i++) {
        if (strncmp(options[i], "--gpu-architecture=", 19) == 0) arch = options[i] + 19;
        implements |= strcmp(options[i], "-DTINYTL_CUDA_IMPLEMENTATION") == 0;
    }
    compiled++;
    if (arch == "sm_990") return 5;                                 // NVRTC_ERROR_INVALID_OPTION
    if (asked("no-compile") || !implements || program->text.find("tlk_conv_mma") == std::string::npos ||
        program->text.find("#endif // TINYTL_CUDA_IMPLEMENTATION") == std::string::npos) {
        program->log = "tinytl_cuda.h(1): error: a fake one\nand more";
        return 6;
    }
    program->image = "code for " + arch;
    return 0;
}
static int give(const std::string &text, char *to) { memcpy(to, text.c_str(), text.size() + 1); return 0; }
EXPORT int nvrtcGetCUBINSize(void *p, size_t *size) { *size = ((fake_program *)p)->image.size() + 1; return 0; }
EXPORT int nvrtcGetCUBIN(void *p, char *to) { return give(((fake_program *)p)->image, to); }
EXPORT int nvrtcGetPTXSize(void *p, size_t *size) { return nvrtcGetCUBINSize(p, size); }
EXPORT int nvrtcGetPTX(void *p, char *to) { return nvrtcGetCUBIN(p, to); }
EXPORT int nvrtcGetProgramLogSize(void *p, size_t *size) { *size = ((fake_program *)p)->log.size() + 1; return 0; }
EXPORT int nvrtcGetProgramLog(void *p, char *to) { return give(((fake_program *)p)->log, to); }
EXPORT int nvrtcDestroyProgram(void **p) { delete (fake_program *)*p; open_things--; return 0; }

// ---- NCCL ----------------------------------------------------------------------------------

static std::vector<float *> summed;
static size_t summed_values;

EXPORT int ncclCommInitAll(void **rings, int count, const int *devices)
{
    for (int i = 0; i < count; i++) { rings[i] = new int(devices[i]); open_things++; }
    return 0;
}
EXPORT int ncclCommDestroy(void *ring) { delete (int *)ring; open_things--; return 0; }
EXPORT int ncclGroupStart(void) { summed.clear(); return 0; }
EXPORT int ncclAllReduce(const void *from, void *to, size_t count, int type, int how, void *, void *)
{
    if (type != 7 || how != 4 || from != to) return 4;              // ncclInvalidArgument
    summed.push_back((float *)to);
    summed_values = count;
    return 0;
}
EXPORT int ncclGroupEnd(void)
{
    for (size_t k = 0; k < summed_values; k++) {
        float sum = 0;
        for (size_t i = 0; i < summed.size(); i++) sum += summed[i][k];
        for (size_t i = 0; i < summed.size(); i++) summed[i][k] = sum / (float)summed.size();
    }
    return 0;
}
