// The library as an object file, with stb's functions inside, for programs that are compiled with TINYTL_LINKED.

#ifdef __GNUC__
    #pragma GCC diagnostic ignored "-Wunused-function"      // stb_image declares a static function that it does not have
#endif
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"
