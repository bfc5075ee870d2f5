#include "skip_gather/routing_plan.h"
