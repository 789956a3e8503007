#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "manifest.h"

int is_inside(const char *name) {
    const char *slash = strchr(name, '/'), *last = slash == NULL ? name : slash + 1;
    size_t first = slash == NULL ? 1 : (size_t)(slash - name);
    if (strlen(name) > 255 || first == 0 || *last == '\0' || strchr(last, '/') != NULL)
        return 0;
    if (strcmp(last, ".") == 0 || strcmp(last, "..") == 0 || strcmp(name, MANIFEST) == 0)
        return 0;
    return slash == NULL || !((first == 1 && name[0] == '.') || (first == 2 && name[0] == '.' && name[1] == '.'));
}

static graphopt_status unreadable(const char *where, const char *name, int error) {
    if (error == ELOOP || error == ENOTDIR)
        return fail(GRAPHOPT_DAMAGED, "%.500s: %.255s is, or lies behind, a link or something else that is no plain file. Save "
                                      "the model again", where, name);
    return fail(error == ENOMEM || error == EMFILE || error == ENFILE ? GRAPHOPT_NO_MEMORY : GRAPHOPT_NO_FILE,
                "%.500s: %.255s cannot be read: %s%s", where, name, strerror(error),
                error != ENOENT                ? ""
                : strcmp(name, MANIFEST) == 0 ? ". Is it the folder of a saved model?"
                                              : ". Copy the whole folder, or save the model again");
}

graphopt_status file_open(file *f, int folder, const char *where, const char *name) {
    const char *slash = strchr(name, '/');
    struct stat found;
    int within = folder, error;
    if (slash != NULL) {
        char inner[256] = {0};
        memcpy(inner, name, (size_t)(slash - name));
        within = openat(folder, inner, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (within < 0)
            return unreadable(where, name, errno);
    }
    f->fd = openat(within, slash == NULL ? name : slash + 1, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    error = errno;
    if (within != folder)
        close(within);
    if (f->fd < 0)
        return unreadable(where, name, error);
    if (fstat(f->fd, &found) != 0)
        return unreadable(where, name, errno);
    if (!S_ISREG(found.st_mode))
        return unreadable(where, name, ENOTDIR);
    f->device = found.st_dev;
    f->inode = found.st_ino;
    f->bytes = (size_t)found.st_size;
    if (f->bytes > 0) {
        void *data = mmap(NULL, f->bytes, PROT_READ, MAP_PRIVATE, f->fd, 0);
        if (data == MAP_FAILED)
            return unreadable(where, name, errno);
        f->data = data;
    }
    return GRAPHOPT_OK;
}

void file_close(file *f) {
    if (f->data != NULL)
        munmap((void *)(uintptr_t)f->data, f->bytes);
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
    f->data = NULL;
    f->bytes = 0;
}
