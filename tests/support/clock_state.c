/* A kernel that says of its clock what CLOCK_STATE says: 0, it is kept right; 5, it is not; -1, it may not be
   asked. A container cannot set the machine's own. */

#include <errno.h>
#include <stdlib.h>

int adjtimex(void *parameters)
{
    const char *state = getenv("CLOCK_STATE");
    (void)parameters;
    errno = EPERM;
    return state ? atoi(state) : 0;
}
