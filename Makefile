# `make help` lists the commands.
SHELL := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast zoo test-zoo wheel-test fuzz bench soak gpu-check lint train quantize card build clean FORCE

PYTHON ?= python3
# Make itself would expand, and run, a value with a dollar. In a value it is written as two.
given := $(foreach v,SOURCE LABELS TAXONOMY RATE FRAMES BIT_DEPTH MODEL TOPIC DEVICE PRECISION OUT OUTPUTS MINUTES ONLY SIZE \
           SECONDS TARGET ROS,$(if $(findstring command,$(origin $v)),$v))
$(foreach v,$(given) PYTHON TORCH TORCH_INDEX ZOO_TORCH WHEELS TEST,$(if $(findstring $$,$(subst $$$$,,$(value $v))),\
  $(error $v=…: make takes the dollar in this value for one of its own variables; write it twice, or give another value)))
# Quotes a text as one word of the shell.
quote = '$(subst ','\'',$1)'
# A looser requirement may install an untested build of PyTorch, with gigabytes of CUDA.
TORCH ?= torch==2.13.0
# Package index for it, which chooses the build; empty: pip's own.
TORCH_INDEX ?=
export TORCH_INDEX
# torchvision's wheels are each for one version of PyTorch; make zoo has an environment of its own.
ZOO_TORCH ?= torch==2.14.1 torchvision==0.29.1

# ROS is the sourced distribution if this Python can use it, else "wheels": those of PyPI, of the list WHEELS in
# scripts/ros_wheels. Named wheels are used where a distribution is sourced, too.
ROS := $(if $(WHEELS),wheels,$(shell [ -n "$$ROS_DISTRO" ] && [ -n "$$AMENT_PREFIX_PATH" ] && \
         $(call quote,$(PYTHON)) -c 'import rclpy' 2>/dev/null && echo "$$ROS_DISTRO" || echo wheels))
$(if $(WHEELS),$(if $(filter-out wheels,$(ROS)),\
  $(error ROS=$(ROS) is the distribution of this machine and WHEELS=$(WHEELS) is from PyPI: give one of them)))
sets := $(sort $(basename $(notdir $(wildcard scripts/ros_wheels/*.txt))))
# A sourced distribution that this Python cannot use has equals on this machine, which the wheels are to talk with.
WHEELS ?= $(or $(filter $(sets),$(value ROS_DISTRO)),kilted)
RUN := . scripts/env.sh &&

help:
	@echo 'make demo     segments a simulated street, over real ROS 2 topics, into out/demo'
	@echo '  SOURCE=…    another source: a video, a folder of images, a rosbag2, /dev/video0'
	@echo '  LABELS=…    folder of label PNGs for these images; TAXONOMY=… names their ids (camvid, …)'
	@echo '  RATE=…      images a second    FRAMES=…  number of images    TOPIC=…  image topic of a rosbag2'
	@echo '  BIT_DEPTH=… bits used of 16-bit images, e.g. 12; by default the values decide'
	@echo '  MODEL=…     name, folder or Hugging Face hub id    DEVICE=…  cpu, cuda, …    OUT=…  folder of the results'
	@echo '  PRECISION=… of the network: auto, fp32, bf16, int8, …'
	@echo '  OUTPUTS=…   pictures of outputs in space, too: points,lidar,grid,obstacles'
	@echo 'make test     runs the tests                    TEST=test/model  a part of them'
	@echo 'make test-fast  runs those that start no process, in three minutes'
	@echo 'make test-zoo  runs those with torchvision and segmentation_models.pytorch, in .venv-zoo, which make zoo makes'
	@echo '  ZOO_TORCH=…  their PyTorch and torchvision (now $(ZOO_TORCH); gigabytes)'
	@echo 'make wheel-test  builds sdist and wheel, installs them in a bare environment and runs the verbs there'
	@echo 'make fuzz     feeds damaged pictures, messages, bags and settings to their readers; failures go to out/fuzz'
	@echo '  SECONDS=…   for each target, default 10         TARGET=…  a single target: compressed, raw, files, labels, …'
	@echo 'make bench    compares with the libraries on this machine, into docs/benchmarks, and writes docs/benchmarks.md'
	@echo 'make gpu-check  tests and measures on a GPU, into out/gpu-check, in nine minutes   OUT=… MINUTES=… ONLY=…'
	@echo 'make soak     runs the node beside hostile cameras for an hour, into out/soak   MINUTES=…   OUT=…  folder'
	@echo 'make lint     checks style and types'
	@echo 'make train    trains the shipped model anew, into out/train_street/model (hours)'
	@echo 'make quantize puts the shipped model into eight bits, beside it, and scores both  CAMVID=…  folder of its splits'
	@echo 'make card     measures the shipped model anew, into docs/evaluation, and writes its card'
	@echo 'make build    makes .venv and builds the package; other commands run it when needed'
	@echo 'make clean    removes .venv, .venv-zoo and the build; out/ stays'
	@echo 'PYTHON=… and TORCH=… select the interpreter and the build of PyTorch (now $(PYTHON), $(TORCH)).'
	@echo 'TORCH_INDEX=… is the package index for it, such as https://download.pytorch.org/whl/cpu'
	@echo 'WHEELS=… selects ROS 2 from PyPI, also where a distribution is sourced: $(subst $() , or ,$(sets)).'

# Only variables of make's command line count: OUT or MODEL of the shell are not meant for the demo.
option = $(if $(findstring command,$(origin $1)),$(if $($1),--$2="$$$1"))

demo: build/.built
	@$(RUN) m2f demo $(strip $(call option,SOURCE,source) $(call option,LABELS,labels) \
	  $(call option,TAXONOMY,taxonomy) $(call option,RATE,rate) $(call option,FRAMES,frames) \
	  $(call option,BIT_DEPTH,bit-depth) $(call option,MODEL,model) $(call option,TOPIC,topic) \
	  $(call option,DEVICE,device) $(call option,PRECISION,precision) $(call option,OUT,out) \
	  $(call option,OUTPUTS,outputs))

test-fast: TEST = -n 2 --dist loadfile -m 'not (slow or more or process or heavy)' test
test test-fast: build/.built
	@$(RUN) PYTHONSAFEPATH=1 python -m pytest $(if $(TEST),$(TEST),-n 2 --dist loadfile test)

zoo: .venv-zoo/.installed

test-zoo: .venv-zoo/.installed
	@if [ -e build/.built ] && grep -qF ' $(ROS)$(if $(filter wheels,$(ROS)), $(WHEELS))' .venv/made-for; then . scripts/env.sh; fi; \
	  PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1 PYTHONPATH="$$PWD:$${PYTHONPATH-}" .venv-zoo/bin/python -m pytest \
	  $(if $(TEST),$(TEST),-n 2 --dist loadfile -m zoo test/model/test_zoo.py test/model/test_conformance.py \
	  test/benchmark/test_library.py test/node/test_families.py test/training/test_zoo_families.py)

# Needs no .venv.
wheel-test:
	@$(call quote,$(PYTHON)) scripts/wheel_test.py $(call quote,$(TORCH))

fuzz: build/.built
	@$(RUN) python test/fuzz/run.py $(strip $(call option,SECONDS,seconds) $(call option,TARGET,target))

# Use a quiet machine and commit the work tree first: the page names the commit of the figures.
bench: build/.built build/.bench
	@$(RUN) m2f bench --model swin-tiny --size 256x512 --threads 2 --backend eager,openvino --against hf,openvino \
	  --json docs/benchmarks/cpu_swin_tiny_256x512.json --device cpu
	@$(RUN) m2f bench --model street --size 352x480 --frame-size 360x480 --threads 2 --rounds 60 \
	  --backend eager,openvino --against hf,openvino --json docs/benchmarks/cpu_street_352x480.json --device cpu
	@$(RUN) for to in onnx openvino; do m2f export street --to $$to --size 480x672 --out out/bench/street_$$to || exit; done
	@$(RUN) m2f bench --model street --size 480x672 --frame-size 480x640 --threads 2 --rounds 60 \
	  --backend eager,openvino --exports out/bench/street_onnx,out/bench/street_openvino --against hf,openvino \
	  --json docs/benchmarks/cpu_street_480x672.json --device cpu
# The node's precision on a processor with bfloat16 instructions.
	@$(RUN) if grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then \
	  m2f bench --model street --size 480x672 --frame-size 480x640 --threads 2 --rounds 60 --precision bf16 \
	  --backend openvino --against hf --json docs/benchmarks/cpu_street_480x672_bf16.json --device cpu; fi
# Eight bits beside the other precisions, on a processor that adds their products in one step.
	@$(RUN) precisions=fp32; ! grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo || precisions+=,bf16; \
	  if grep -qE 'avx512_vnni|avx_vnni' /proc/cpuinfo; then \
	  m2f bench --model street --size 480x672 --frame-size 480x640 --threads 2 --rounds 60 --precision $$precisions,int8 \
	  --backend openvino --against none --json docs/benchmarks/cpu_street_480x672_int8.json --device cpu; fi
	@$(RUN) m2f bench --model random:segformer --size 480x640 --threads 2 --backend eager,openvino \
	  --json docs/benchmarks/cpu_segformer_480x640.json --device cpu
	@if [ -e .venv-zoo/.installed ]; then PYTHONPATH="$$PWD" .venv-zoo/bin/python -m m2f_ros.cli bench \
	  --model random:smp:Unet/mobilenet_v2 --size 480x640 --threads 2 --backend eager,openvino \
	  --json docs/benchmarks/cpu_unet_480x640.json --device cpu; fi
	@$(RUN) m2f bench-node --frames 900 --json docs/benchmarks/cpu_node.json
	@$(RUN) m2f bench-node --frames 900 --frame-size 480x640 --outputs label,points \
	  --json docs/benchmarks/cpu_points_node.json
	@$(RUN) m2f bench-node --frames 900 --frame-size 480x640 --outputs label,grid \
	  --json docs/benchmarks/cpu_grid_node.json
	@$(RUN) m2f bench-report

build/.bench: .venv/.installed pyproject.toml
	@$(RUN) python -m pip install --quiet --progress-bar off --no-build-isolation -e '.[bench]'
	@touch $@

# The page is written even if a criterion is missed; the exit status is then 1.
soak: soak_out = $(if $(findstring command,$(origin OUT)),$$OUT,out/soak)
soak: build/.built
	@$(RUN) status=0; m2f soak $(call option,MINUTES,minutes) --json "$(soak_out)/soak.json" \
	  --log "$(soak_out)/node.log" || status=$$?; [ $$status -gt 1 ] || \
	  m2f soak-report --results "$(soak_out)/soak.json" --out "$(soak_out)/soak.md"; exit $$status

# PYTHON's own PyTorch is used if it has a CUDA device: such a machine may have no network to make .venv.
ifneq ($(filter gpu-check,$(MAKECMDGOALS)),)
GPU_PYTHON := $(shell $(call quote,$(PYTHON)) -c 'import torch; print(torch.cuda.is_available() or "")' 2>/dev/null)
ifneq ($(GPU_PYTHON),)
GPU_LACKS := $(shell $(call quote,$(PYTHON)) -c 'import click, cv2, yaml, pytest' 2>&1 | sed -n '$$s/^[^:]*: //p')
$(if $(GPU_LACKS),$(warning $(PYTHON) has PyTorch with a CUDA device, but: $(GPU_LACKS). Install it, or .venv is used))
GPU_PYTHON := $(if $(GPU_LACKS),,$(GPU_PYTHON))
endif
endif

gpu-check: $(if $(GPU_PYTHON),,build/.built)
	@$(if $(GPU_PYTHON),PYTHONPATH=".$${PYTHONPATH:+:$$PYTHONPATH}" $(call quote,$(PYTHON)) -m m2f_ros.cli,$(RUN) m2f) gpu-check $(strip \
	  $(call option,OUT,out) $(call option,MINUTES,minutes) $(call option,ONLY,only) $(call option,MODEL,model) \
	  $(call option,SIZE,size) $(call option,DEVICE,device))

lint: .venv/.installed
	@$(RUN) python -m ruff check . && python -m ruff format --check . && python -m mypy

# Both continue after an interruption.
train: build/.built
	@$(RUN) m2f street out/street/train --seeds 0..199 --every 15 --frames 300
	@$(RUN) m2f street out/street/val --seeds 1000..1009 --every 30 --frames 300
	@$(RUN) m2f train config/train_street.yaml --resume

# Needs CamVid's validation split, images and labels, in CAMVID/val and CAMVID/valannot.
CAMVID = ../shared/data/camvid
quantize: build/.built
	@$(RUN) m2f quantize street --out out/quantize/street --frames 20 --scored 101 --max-loss 0.005 \
	  --score street --score $(CAMVID)/val --labels $(CAMVID)/valannot --taxonomy camvid
	@mkdir -p m2f_ros/model/weights/street/int8
	@install -m 644 out/quantize/street/{config.json,preprocessor_config.json,model.safetensors,quantisation.json} \
	  m2f_ros/model/weights/street/int8

# Runs the commands of card.yaml, then writes the card.
card: build/.built
	@[ ! -e out/card ] || { echo 'm2f_ros: out/card is there, of an earlier make card: move it away' >&2; exit 1; }
	@$(RUN) commands=$$(m2f card street --commands) && bash -exc "$$commands"
	@$(RUN) m2f card street --out m2f_ros/model/weights/street/README.md

build: build/.built

clean:
	@bash scripts/clean.sh

# Writes standard input to the target, but only if it differs: an equal file keeps its time.
keep = mkdir -p build && cat > $@.new && if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

build/wanted.txt: FORCE
	@printf '%s %s %s %s %s %s\n' "$$PWD" $(foreach v,PYTHON TORCH TORCH_INDEX ROS WHEELS,$(call quote,$($v))) | { $(keep); }

build/files.txt: FORCE
	@find m2f_ros launch config -type f -not -name '*.pyc' | LC_ALL=C sort | { $(keep); }

.venv/.installed: build/wanted.txt pyproject.toml scripts/make_env.sh \
                  $(wildcard scripts/ros_wheels/*.txt) scripts/repair_ros_wheels.py
	@bash scripts/make_env.sh $(foreach v,PYTHON TORCH ROS WHEELS,$(call quote,$($v)))
	@touch $@

build/zoo_wanted.txt: FORCE
	@printf '%s %s %s %s %s\n' "$$PWD" $(foreach v,PYTHON ROS WHEELS ZOO_TORCH,$(call quote,$($v))) | { $(keep); }

.venv-zoo/.installed: build/zoo_wanted.txt pyproject.toml scripts/make_zoo.sh
	@bash scripts/make_zoo.sh $(foreach v,PYTHON ROS WHEELS,$(call quote,$($v))) $(foreach one,$(ZOO_TORCH),$(call quote,$(one)))
	@touch $@

build/.built: .venv/.installed build/files.txt CMakeLists.txt package.xml scripts/build.sh \
              $(wildcard resource/*.in msg/*.msg)
	@bash scripts/build.sh
	@touch $@
