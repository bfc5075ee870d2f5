#pragma once

// An instantiation of a kernel template under the name that the host looks up.
#define GHOST_KERNEL(host_name_text, ...) \
  template [[host_name(host_name_text)]] [[kernel]] decltype(__VA_ARGS__) __VA_ARGS__;
