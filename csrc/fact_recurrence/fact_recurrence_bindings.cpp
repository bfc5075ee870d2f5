#include "common/bindings.h"
#include "fact_recurrence/fact_recurrence.h"

namespace ghost {

void bind_fact_recurrence(nb::module_& m) {
  m.def("decayed_sum", &decayed_sum, "x"_a, "log_keep"_a, "initial"_a, nb::kw_only(),
        "stream"_a = nb::none());
  m.def("began_ago", &began_ago, "start_logit"_a, "length"_a, "width"_a, nb::kw_only(),
        "stream"_a = nb::none());
  m.def("last_events", &last_events, "row"_a, "weight"_a, "log_keep"_a, "state_row"_a, "state_log"_a,
        "state_age"_a, nb::kw_only(), "stream"_a = nb::none());
}

}  // namespace ghost
