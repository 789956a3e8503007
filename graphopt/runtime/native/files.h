/* Files of a saved model, reached through its open folder: what is checked is what is used, whatever happens to the paths. */
#ifndef GRAPHOPT_FILES_H
#define GRAPHOPT_FILES_H

#include <sys/types.h>

#include "error.h"

typedef struct {
    int fd;          /* -1: not open */
    dev_t device;
    ino_t inode;
    const void *data; /* the contents, mapped to be read; NULL where `bytes` is 0 */
    size_t bytes;
} file;

#define NO_FILE {-1, 0, 0, NULL, 0}

/* Whether it names a file in the folder or in one of its folders ("znver4/0.so"), and not the manifest. */
int is_inside(const char *name);

/* Open a file of the folder `folder` (`where` in messages), which must be a plain one and no link, and map it. */
graphopt_status file_open(file *f, int folder, const char *where, const char *name);

void file_close(file *f);

#endif
