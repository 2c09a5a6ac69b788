// tinytl_cuda.h compiled by an ordinary C compiler: the driver, NVRTC and NCCL are looked for at run time. Here they are those of
// tests/fake_cuda.cpp, in the folder fake_cuda beside this program. "real" as an argument: those of this machine, on its GPU.

#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"
#define TINYTL_CUDA_IMPLEMENTATION
#include "../tinytl_cuda.h"
#include "check.h"

extern int setenv(const char *name, const char *value, int replace);
extern int unsetenv(const char *name);

static int count_of(const char *function)          // of the fake library
{
    int (*ask)(void) = NULL;
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *address = library ? dlsym(library, function) : NULL;
    memcpy(&ask, &address, sizeof ask);
    return ask ? ask() : -1;
}

#define SIDE 8
#define BATCH 2

// A small network after four steps: its parameters go to `out`.
static void train(int cuda, tl_cuda_math math, float *out, size_t capacity)
{
    tl_net_desc desc = { .seed = 7, .threads = 1, .exact = 1 };
    tl_cuda_desc device = { .math = math };
    tl_net *net = tl_net_new(&desc);
    CHECK(!cuda || tl_use_cuda(net, &device) == TL_OK, "%s", tl_error(net));
    CHECK(!cuda || strcmp(tl_device_name(net), "CPU"), "the device is '%s'", tl_device_name(net));
    tl_unet(net, tl_input(net, SIDE, SIDE, 1), &(tl_unet_desc){ .classes = 2, .width = 8, .depth = 1 });
    tl_loss(net, tl_last(net), &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_SGD, .lr = 0.01f });
    tl_result r = tl_prepare(net, BATCH, 1);
    for (uint32_t step = 0; step < 4 && !r; step++) {
        float x[BATCH * SIDE * SIDE];
        int32_t classes[BATCH * SIDE * SIDE];
        tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, step, 0, 0);
        for (int i = 0; i < BATCH * SIDE * SIDE; i++) {
            x[i] = tl_random_normal(&rng);
            classes[i] = (int32_t)tl_random_below(&rng, 2);
        }
        r = tl_set_input(net, (tl_node){ 1 }, x, BATCH);
        if (!r) r = tl_set_target_index(net, 0, classes, BATCH);
        if (!r) r = tl_forward(net, BATCH, TL_TRAIN);
        if (!r) r = tl_backward(net);
        if (!r) r = tl_step(net);
    }
    CHECK(r == TL_OK && tl_parameter_count(net) <= capacity, "%s", tl_error(net));
    if (!r) memcpy(out, tl_parameters(net), tl_parameter_count(net) * sizeof *out);
    tl_net_free(net);
}

static void test_same(void)
{
    static float cpu[20000], gpu[3][20000];
    train(0, TL_CUDA_FP32, cpu, 20000);
    for (int math = TL_CUDA_FP32; math <= TL_CUDA_BF16; math++) {
        double worst = 0;
        train(1, (tl_cuda_math)math, gpu[math], 20000);
        for (int i = 0; i < 20000; i++) worst = fmax(worst, fabs((double)(cpu[i] - gpu[math][i])));
        CHECK(worst < (math == TL_CUDA_FP32 ? 1e-5 : 1e-2), "math %d: parameters are off by %g after four steps", math, worst);
    }
}

static void refused(const char *wish, const char *says)
{
    tl_net *net = tl_net_new(NULL);
    setenv("FAKE_CUDA", wish, 1);
    CHECK(tl_use_cuda(net, NULL) != TL_OK && strstr(tl_error(net), says), "%s: '%s'", wish, tl_error(net));
    unsetenv("FAKE_CUDA");
    CHECK(strcmp(tl_device_name(net), "CPU") == 0 && tl_status(net) == TL_OK, "%s: the network is spoilt", wish);
    tl_net_free(net);
    CHECK(count_of("fake_cuda_open") == 0, "%s: %d things are not given back", wish, count_of("fake_cuda_open"));
}

// Code is compiled once and kept; what is damaged is compiled again.
static void test_cache(const char *folder)
{
    char path[1024];
    CHECK(tl__cu_cache_path(path, sizeof path, 9, 0) && strncmp(path, folder, strlen(folder)) == 0, "the cache is '%s'", path);
    remove(path);
    for (int i = 0; i < 3; i++) {
        int before = count_of("fake_cuda_compiled");
        tl_net *net = tl_net_new(NULL);
        if (i == 2) {
            FILE *file = fopen(path, "wb");
            if (file) fputs("damaged", file);
            if (file) fclose(file);
        }
        CHECK(tl_use_cuda(net, NULL) == TL_OK, "%s", tl_error(net));
        tl_net_free(net);
        CHECK(count_of("fake_cuda_compiled") - before == (i != 1), "run %d compiled %d times", i,
              count_of("fake_cuda_compiled") - before);
    }
    remove(path);
}

static void test_join(void)
{
    tl_net *nets[2];
    for (int i = 0; i < 2; i++) {
        nets[i] = tl_net_new(NULL);
        CHECK(tl_use_cuda(nets[i], &(tl_cuda_desc){ .device = i }) == TL_OK, "%s", tl_error(nets[i]));
        tl_dense(nets[i], tl_input(nets[i], 1, 1, 3), &(tl_dense_desc){ .out = 2 });
        tl_loss(nets[i], tl_last(nets[i]), &(tl_loss_desc){ .kind = TL_MSE });
        CHECK(tl_prepare(nets[i], 1, 1) == TL_OK, "%s", tl_error(nets[i]));
    }
    CHECK(tl_cuda_join(nets, 2) == TL_OK, "%s", tl_error(nets[0]));
    float mean[8], own[8];
    for (int i = 0; i < 2; i++) {
        float x[3] = { 1.0f + (float)i, -1, 2 }, t[2] = { 0, (float)i };
        tl_set_input(nets[i], (tl_node){ 1 }, x, 1);
        tl_set_target_dense(nets[i], 0, t, 1);
        tl_forward(nets[i], 1, TL_TRAIN);
        CHECK(tl_backward(nets[i]) == TL_OK, "%s", tl_error(nets[i]));
        memcpy(i ? own : mean, tl_gradients(nets[i]), sizeof own);
    }
    for (int k = 0; k < 8; k++) mean[k] = (mean[k] + own[k]) / 2;
    CHECK(tl_cuda_average(nets[0]) == TL_OK, "%s", tl_error(nets[0]));
    for (int i = 0; i < 2; i++) CHECK(memcmp(tl_gradients(nets[i]), mean, sizeof mean) == 0, "network %d has no mean", i);
    for (int i = 0; i < 2; i++) tl_net_free(nets[i]);
}

int main(int argc, char **argv)
{
    char folder[1024];
    const char *slash = strrchr(argv[0], '/');
    int real = argc > 1 && strcmp(argv[1], "real") == 0;
    snprintf(folder, sizeof folder, "%.*s/fake_cuda", slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
    if (!real && !getenv("TINYTL_CUDA_CACHE")) {             // the loader reads its path when a program starts
        setenv("LD_LIBRARY_PATH", folder, 1);
        setenv("TINYTL_CUDA_CACHE", folder, 1);
        execv(argv[0], argv);
        return 1;
    }
    test_same();
    if (!real) {
        test_cache(folder);
        test_join();
        CHECK(count_of("fake_cuda_open") == 0, "%d things are not given back", count_of("fake_cuda_open"));
        setenv("TINYTL_CUDA_CACHE", "", 1);
        refused("no-device", "no CUDA-capable device");
        refused("old-gpu", "compute capability 7.0");
        refused("no-compile", "error: a fake one");
        refused("no-module", "a fake error");
        setenv("TINYTL_NVRTC", "libno-such-thing.so", 1);
        refused("", "NVRTC, the compiler of the CUDA toolkit, is not installed (looked for libno-such-thing.so)");
        unsetenv("TINYTL_NVRTC");
        setenv("FAKE_CUDA", "new-gpu", 1);
        tl_net *net = tl_net_new(NULL);
        CHECK(tl_use_cuda(net, NULL) == TL_OK, "a GPU newer than NVRTC: %s", tl_error(net));
        tl_net_free(net);
    }
    return finish("cuda_dlopen");
}
