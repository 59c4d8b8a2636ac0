// The device properties that launch plans depend on.
#pragma once

#include "types.h"

namespace cyclegan_fast {

// Those of the current device. A device is queried until it has answered once.
DeviceProperties current_device_properties();

}  // namespace cyclegan_fast
