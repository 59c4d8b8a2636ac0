// What the launch plans ask of the card.
#pragma once

#include "types.h"

namespace cyclegan_fast {

// The current device. Each device is asked until it has answered once.
Card current_card();

}  // namespace cyclegan_fast
