// All tests in one program: compiling the library is what tests cost most.
//
//     all NAME [ARGUMENTS]       runs one of them
//
// With TINYTL_DOUBLE: those that compare with central differences, or with PyTorch to rounding.

#define TESTS_TOGETHER
#include "check.h"
#include "golden.c"
#include "models.c"
#include "ops.c"
#include "transfer.c"
#ifndef TINYTL_DOUBLE
    #include "augment.c"
    #include "backbones.c"
    #include "data.c"
    #include "files.c"
    #include "grains.c"
    #include "network.c"
    #include "pretrained.c"
    #include "random_nets.c"
    #include "training.c"
#endif

static const struct { const char *name; int (*run)(void); int (*run_with)(int, char **); } tests[] = {
    { "golden", golden_main, NULL },
    { "models", NULL, models_main },
    { "ops", ops_main, NULL },
    { "transfer", transfer_main, NULL },
#ifndef TINYTL_DOUBLE
    { "augment", augment_main, NULL },
    { "backbones", backbones_main, NULL },
    { "data", data_main, NULL },
    { "files", files_main, NULL },
    { "grains", grains_main, NULL },
    { "network", network_main, NULL },
    { "pretrained", pretrained_main, NULL },
    { "random_nets", NULL, random_nets_main },
    { "training", training_main, NULL },
#endif
};

int main(int argc, char **argv)
{
    int count = (int)(sizeof tests / sizeof *tests);
    for (int i = 0; i < count; i++) {
        if (argc < 2 || strcmp(argv[1], tests[i].name)) continue;
        return tests[i].run ? tests[i].run() : tests[i].run_with(argc - 1, argv + 1);
    }
    printf("usage: %s NAME, one of:", argv[0]);
    for (int i = 0; i < count; i++) printf(" %s", tests[i].name);
    printf("\n");
    return 2;
}
