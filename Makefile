# make help  says what there is.

CC     ?= cc
CXX    ?= c++
CFLAGS ?= -O2
WARN    = -Wall -Wextra -Wpedantic -Wshadow
PREFIX ?= /usr/local
BUILD   = build
WERROR  =
QUICK   =

# Headers that are not ours (stb, where the system has none) count as system headers: their warnings are not ours either.
STB      = build/include
ISO      = -std=c99 -D_POSIX_C_SOURCE=200809L
OPTIONS  =
COMPILE  = $(CC) $(ISO) $(CFLAGS) $(WARN) $(WERROR) $(OPTIONS) -I. -Itests -isystem $(STB)
LIBS     = -lm -pthread

EXAMPLES = $(patsubst examples/%.c,$(BUILD)/examples/%,$(wildcard examples/*.c))
# The tests of tests/all.c, and those that are a program of their own. LOGIC: no fast kernel takes part, and the library compiles
# without them in a fraction of the time.
TOGETHER = golden models ops transfer augment backbones data files grains network pretrained random_nets training
DOUBLE   = golden_double models_double ops_double transfer_double
LOGIC    = fuzz_data fuzz_model fuzz_text
TESTS    = $(TOGETHER) $(DOUBLE) memory program $(LOGIC) cuda cuda_dlopen
SCRIPTS  = compile check_docs check_cuda
LOG_OF   = $(patsubst %,$(BUILD)/test/%.log,$(1))

all: $(BUILD)/tinytl $(EXAMPLES)

help:
	@echo 'make            the program build/tinytl and the examples'
	@echo 'make demo       learn grain boundaries from synthetic grains and find them in images never seen; about two minutes'
	@echo 'make test       all tests; ends with "N passed, N failed". make test-programs TESTS="ops files": some'
	@echo 'make examples   run the examples; QUICK=1: only a few steps of each'
	@echo 'make bench      speed of this machine and of tinytl on it, beside PyTorch if PYTHON has it; writes build/bench.json'
	@echo 'make cuda       on a machine with a GPU and nvcc: test tinytl_cuda.h there and time it beside PyTorch'
	@echo 'make install    PREFIX/include/tinytl.h and PREFIX/bin/tinytl, PREFIX=$(PREFIX); make uninstall removes them'
	@echo 'make clean      remove build/'
	@echo 'Variables: CC, CFLAGS, WARN, WERROR (-Werror), BUILD (folder), PREFIX, DESTDIR, TIFF (flags for libtiff; TIFF= builds without)'

demo: $(BUILD)/tinytl
	$(BUILD)/tinytl demo $(BUILD)/demo

examples: $(EXAMPLES)
	cd $(BUILD)/examples && ./01_convolution
	cd $(BUILD)/examples && ./02_lenet $(if $(QUICK),40)
	cd $(BUILD)/examples && ./03_grains $(if $(QUICK),1)
	cd $(BUILD)/examples && ./10_transfer $(if $(QUICK),10)
	cd $(BUILD)/examples && ./11_forgetting $(if $(QUICK),1)
	cd $(BUILD)/examples && ./12_frozen_norms $(if $(QUICK),1)
	cd $(BUILD)/examples && ./13_optimizers $(if $(QUICK),2)
	cd $(BUILD)/examples && ./14_micrographs
	cd $(BUILD)/examples && ./15_few_labels
	cd $(BUILD)/examples && ./21_desync $(if $(QUICK),1)
	cd $(BUILD)/examples && ./22_ising $(if $(QUICK),1)
	cd $(BUILD)/examples && ./23_adaptive $(if $(QUICK),1)

cuda:
	sh tools/cuda.sh

# PYTHON with PyTorch puts its times beside ours. ISA=avx2: that instruction set, there and here.
PYTHON ?= python3
ISA     =
PEER    = $(PYTHON) tools/bench_torch.py $(if $(ISA),--isa $(ISA))
bench: $(BUILD)/bench
	$(BUILD)/bench $(BUILD)/bench.json $(ISA) $(if $(QUICK),quick,peer "$(PEER)")
	$(if $(QUICK),,$(BUILD)/bench grow $(BUILD)/bench_grow.png $(ISA))

# ---- what is built -------------------------------------------------------------------------

# TIFF images are read where libtiff is installed: TIFF holds the flags that the compiler then needs.
ifndef TIFF
TIFF = $(shell cat $(BUILD)/tiff.flags 2>/dev/null)
endif

$(BUILD)/tinytl: tools/tinytl.c $(wildcard tools/*.h) tinytl.h $(BUILD)/stb.ok $(BUILD)/tiff.flags
	@echo "  $(CC) $@ $(TIFF)"
	@$(COMPILE) $< -o $@ $(TIFF) $(LIBS)

# Each example holds the whole library; here it is compiled once for all of them.
$(BUILD)/tinytl.o: tools/library.c tinytl.h $(BUILD)/stb.ok
	@echo "  $(CC) $@"
	@$(COMPILE) -c $< -o $@

$(BUILD)/examples/%: examples/%.c $(wildcard examples/*.h) $(BUILD)/tinytl.o
	@echo "  $(CC) $@"
	@mkdir -p $(@D)
	@$(COMPILE) -DTINYTL_LINKED $< $(BUILD)/tinytl.o -o $@ $(LIBS)

$(BUILD)/%: tools/%.c tinytl.h $(BUILD)/stb.ok
	@echo "  $(CC) $@"
	@$(COMPILE) $< -o $@ $(LIBS)

$(BUILD)/%_double: tests/%.c $(wildcard tests/*) tinytl.h $(BUILD)/stb.ok
	@echo "  $(CC) $@"
	@$(COMPILE) -DTINYTL_DOUBLE $< -o $@ $(LIBS)

$(BUILD)/bench: tools/grow.h examples/plot.h

# The program's test includes the program.
$(BUILD)/program: $(wildcard tools/*.[ch]) $(BUILD)/tiff.flags
$(BUILD)/program: LIBS += $(TIFF)

$(addprefix $(BUILD)/,$(LOGIC)): OPTIONS = -DTINYTL_PLAIN -DSTANDALONE

$(BUILD)/%: tests/%.c $(wildcard tests/*) tinytl.h $(BUILD)/stb.ok
	@echo "  $(CC) $@"
	@$(COMPILE) $< -o $@ $(LIBS)

# The kernels of tinytl_cuda.h, run on the CPU against the plain ones of tinytl.h. Unknown pragmas are those of CUDA.
$(BUILD)/%: tests/%.cpp $(wildcard tests/*.h) tinytl.h tinytl_cuda.h $(BUILD)/stb.ok
	@echo "  $(CXX) $@"
	@$(CXX) -std=c++11 -D_POSIX_C_SOURCE=200809L -DTINYTL_PLAIN $(CFLAGS) $(WARN) $(WERROR) -Wno-unknown-pragmas -I. -Itests \
		-isystem $(STB) $< -o $@ $(LIBS)

# A part of the cases: sanitizers and fibers together are slow.
$(BUILD)/cuda.sanitized: $(BUILD)/cuda
	@ASAN_OPTIONS=detect_stack_use_after_return=0:detect_leaks=0 $< out=1
	@touch $@

# What a step would cost on a GPU, by a model.
$(BUILD)/cuda_plan: tools/cuda_plan.cpp tests/emulator.h tinytl.h tinytl_cuda.h $(BUILD)/stb.ok
	@echo "  $(CXX) $@"
	@$(CXX) -std=c++11 -D_POSIX_C_SOURCE=200809L -DTINYTL_PLAIN -O1 $(WARN) $(WERROR) -Wno-unknown-pragmas -Wno-unused-function \
		-I. -Itests -isystem $(STB) $< -o $@ $(LIBS)

# A driver, NVRTC and NCCL without a GPU, under the names that tinytl_cuda.h looks for.
$(BUILD)/fake_cuda/libcuda.so.1: tests/fake_cuda.cpp tests/emulator.h tinytl_cuda.h
	@echo "  $(CXX) $@"
	@mkdir -p $(@D)
	@$(CXX) -std=c++11 -D_POSIX_C_SOURCE=200809L $(CFLAGS) $(WARN) $(WERROR) -Wno-unknown-pragmas -fPIC -shared -I. -Itests $< -o $@
	@ln -sf libcuda.so.1 $(@D)/libnvrtc.so.13
	@ln -sf libcuda.so.1 $(@D)/libnccl.so.2

$(BUILD)/cuda_dlopen: OPTIONS = -DTINYTL_PLAIN
$(BUILD)/cuda_dlopen: LIBS += -ldl
$(BUILD)/cuda_dlopen: tinytl_cuda.h $(BUILD)/fake_cuda/libcuda.so.1

$(BUILD)/stb.ok: tools/fetch_stb.sh
	@mkdir -p $(BUILD)
	@sh tools/fetch_stb.sh $(STB) $(CC)
	@touch $@

$(BUILD)/tiff.flags:
	@mkdir -p $(BUILD)
	@printf '#include <tiffio.h>\nint main(void) { return TIFFGetVersion() == 0; }\n' > $(BUILD)/tiff.c
	@if $(CC) $(BUILD)/tiff.c -o $(BUILD)/tiff.out -ltiff 2>/dev/null; then echo '-DTL_HAVE_TIFF -ltiff'; fi > $@
	@rm -f $(BUILD)/tiff.c $(BUILD)/tiff.out

# ---- tests: each writes a log; the last step adds the logs up, so that one failure hides no other ------------------------

test: $(call LOG_OF,$(TESTS) $(SCRIPTS))
	@sh tools/sum_tests.sh $^

test-programs: $(call LOG_OF,$(TESTS))
	@sh tools/sum_tests.sh $^

RUN = mkdir -p $(BUILD)/test && sh tools/run_test.sh $@

$(BUILD)/test/compile.log: tests/compile.sh tinytl.h $(BUILD)/stb.ok FORCE
	@$(RUN) env CC="$(CC)" CXX="$(CXX)" sh tests/compile.sh

$(BUILD)/test/check_docs.log: $(BUILD)/stb.ok FORCE
	@$(RUN) sh tools/check_docs.sh $(BUILD)/docs $(CC) -isystem $(STB)

$(BUILD)/test/check_cuda.log: FORCE
	@$(RUN) env CC="$(CC)" CXX="$(CXX)" sh tools/check_cuda.sh $(BUILD)/cuda_check

$(call LOG_OF,$(TOGETHER)): $(BUILD)/test/%.log: $(BUILD)/all FORCE
	@$(RUN) $< $*

$(call LOG_OF,$(DOUBLE)): $(BUILD)/test/%_double.log: $(BUILD)/all_double FORCE
	@$(RUN) $< $*

$(BUILD)/test/%.log: $(BUILD)/% FORCE
	@$(RUN) $<

FORCE:

# ---- the rest ------------------------------------------------------------------------------

install: $(BUILD)/tinytl
	install -d "$(DESTDIR)$(PREFIX)/include" "$(DESTDIR)$(PREFIX)/bin"
	install -m 644 tinytl.h tinytl_cuda.h "$(DESTDIR)$(PREFIX)/include"
	install -m 755 $(BUILD)/tinytl "$(DESTDIR)$(PREFIX)/bin/tinytl"

uninstall:
	rm -f "$(DESTDIR)$(PREFIX)/include/tinytl.h" "$(DESTDIR)$(PREFIX)/include/tinytl_cuda.h" "$(DESTDIR)$(PREFIX)/bin/tinytl"

clean:
	rm -rf build

.PHONY: all help demo examples bench cuda test test-programs install uninstall clean FORCE
.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:
