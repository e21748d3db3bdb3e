"""No text in the source advises something that no test follows.

`advice` finds the texts that name an option or a command, or begin a sentence by what to do. Each must be met by the
pattern of a row in the tables of support/remedies, which the other test_remedies*.py follow, or be named here: with the
test that follows it, or with the reason why none can.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from support.advice import advice, advises
from support.remedies.commands import REMEDIES
from support.remedies.data import CALLS as OF_DATA
from support.remedies.evaluation import CALLS as OF_EVALUATION
from support.remedies.networks import CALLS as OF_NETWORKS
from support.remedies.runs import CALLS as OF_RUNS

TESTS = Path(__file__).parent
TABLES = (REMEDIES, OF_NETWORKS, OF_DATA, OF_EVALUATION, OF_RUNS)

TRIED_ELSEWHERE = {
    "give lists of names under user and fitted.": "test_origins.py::test_origins_that_nobody_wrote_are_refused",
    "Cut it into tiles, or downscale it; docs/checking.md":
        "test_remarks.py::test_an_image_that_is_too_large_can_be_cut_as_the_documentation_says",
    "pass x[None] for one image, or x[:, None] for ":
        "test_kinds_of_data.py::test_what_is_advised_about_arrays_works",
    "put the call under if __name__ == '__main__', or use workers=0":
        "test_workers.py::test_a_script_without_a_main_guard_is_told_what_to_do",
    "the class of a Dataset must be defined at the top level of a module. Move it there, or use workers=0":
        "test_workers.py::test_a_dataset_that_cannot_be_sent_says_where_its_class_must_stand",
    "batches are sent through a pipe instead, which is slower. Use fewer --workers":
        "test_reliability.py::test_little_shared_memory",
    "The loading processes cannot be started: ": "test_reliability.py::test_little_shared_memory",
    "# the same accuracies again": "test_demo.py::test_the_command",
    "Save the intended one in a separate file, such as with `":
        "test_encoders.py::test_two_networks_that_fit_alike_are_refused_with_a_command_that_parts_them",
    "Where it was created, save only the tensors: ":
        "test_encoders.py::test_a_file_with_objects_is_refused_with_what_it_holds_and_what_to_do",
    "open it in a browser": "test_report_browser.py::test_it_shows_every_section_and_loads_every_picture",
    "Make room there.": "test_reliability.py::test_a_full_disk_loses_nothing",
    "Make it and its folder writable for this user.": "test_reliability.py::test_a_run_that_becomes_read_only",
    "Make the file system writable": "test_reliability.py::test_a_disk_without_inodes_and_one_that_turns_read_only",
    "Give this user the permission": "test_reliability.py::test_what_may_not_be_read_is_named",
    " is intact: resume with ": "test_reliability.py::test_a_full_disk_loses_nothing",
    "Wait for it, stop it, or name another folder.":
        "test_reliability.py::test_two_processes_do_not_train_into_one_folder",
    "Leave --time out, or ask for more with --epochs.":
        "test_time.py::test_a_killed_training_goes_on_with_the_same_number_of_steps",
    "nothing to resume. Ask for more with --epochs.":
        "test_resume.py::test_a_finished_run_is_left_alone_and_goes_on_with_more_epochs",
    "To remove them: ":
        "test_first_use.py::test_checkpoints_of_single_epochs_are_thinned_while_training_and_afterwards",
    "--probe None leaves it out":
        "test_moved.py::test_a_probe_that_moved_is_taken_one_that_is_gone_is_left_out_another_is_refused",
    "Give the same images; ":
        "test_moved.py::test_a_probe_that_moved_is_taken_one_that_is_gone_is_left_out_another_is_refused",
    "If it has moved, give its new path: ":
        "test_moved.py::test_a_probe_that_moved_is_taken_one_that_is_gone_is_left_out_another_is_refused",
    "Use one of torchrun, srun and --devices.": "test_distributed.py::test_two_processes_equal_one",
    "Whether the encoder forgot what --init knew is not measured":
        "test_forgetting.py::test_a_training_warns_at_the_step_and_in_the_end",
    "Next: \0\0": "test_recommendation.py::test_the_last_line_of_check_is_a_command_that_runs",
    "To draw its views: ": "test_recommendation.py::test_the_last_line_of_check_is_a_command_that_runs",
    "Give a list of the others as DATA, or train with --max-broken 1.":
        "test_recommendation.py::test_data_that_cannot_be_trained_on_get_a_reason_and_no_command",
    "pip install 'lookalike[\0]'": "test_doctor.py::test_a_missing_extra_is_named_with_its_command",
    "Install it: pip install \0": "test_doctor.py::test_a_missing_library_and_one_that_is_too_old",
    "Install a supported version: pip install \0": "test_doctor.py::test_a_missing_library_and_one_that_is_too_old",
    "Reinstall it: pip install --force-reinstall \0":
        "test_doctor.py::test_a_torch_that_cannot_be_imported_is_reported",
    "Give the container more shared memory: docker run --shm-size 8g. Or use fewer --workers.":
        "test_doctor.py::test_a_small_shared_memory_is_a_problem",
    "Stop other programs, give the container more": "test_doctor.py::test_little_memory_and_disk_are_problems",
    "Choose another folder with \0.": "test_doctor.py::test_little_memory_and_disk_are_problems",
    "Free some space, or choose a folder on another disk with \0.":
        "test_doctor.py::test_little_memory_and_disk_are_problems",
    "export NUMBA_CACHE_DIR=": "test_doctor.py::test_compiled_code_is_kept_where_it_is_told",
    "unset CUDA_VISIBLE_DEVICES": "test_doctor.py::test_a_gpu_that_torch_does_not_see_is_explained",
    "Name the columns, such as --columns.path file.": "test_columns.py::test_commands_that_use_an_encoder",
    "columns.path is empty. Give the name": "test_tables.py::test_columns_have_the_names_that_are_given",
    "Give each column its own name.": "test_tables.py::test_columns_have_the_names_that_are_given",
    "expected a text or a whole number. Correct it.": "test_tables.py::test_bad_lists_are_refused_with_the_line",
    "expected a;b or a list. Correct it.":
        "test_row_files.py::test_classes_that_are_no_lists_of_texts_are_refused_by_row",
    " cannot have several classes per image. Give a list":
        "test_tables.py::test_several_classes_need_a_list_with_their_column",
    "Give each image its classes": "test_tables.py::test_several_classes_need_a_list_with_their_column",
    "Leave --multi-label out, or use fewer classes.":
        "test_tables.py::test_an_open_list_has_the_labels_that_it_was_opened_with",
    "Open it with labelled=True, multi_label=True.":
        "test_tables.py::test_an_open_list_has_the_labels_that_it_was_opened_with",
    "Leave --holdout out to use it, or ignore": "test_splits.py::test_splits_that_cannot_be_used_say_why",
    "Give TEST, the fraction of a random split": "test_splits.py::test_what_the_messages_advise_works",
    "or name another column with --columns.split.": "test_splits.py::test_splits_that_cannot_be_used_say_why",
    "Correct the column, give TEST or ignore": "test_splits.py::test_what_the_messages_advise_works",
    "Or ignore the column with --columns.group": "test_splits.py::test_what_the_messages_advise_works",
    "or images of several groups.": "test_holdout.py::test_large_groups_leave_one_for_testing",
    "Leave \0 out; \0 take several classes per image.":
        "test_multi_label.py::test_protocols_for_one_class_are_refused_before_any_work",
    "Choose knn or linear.": "test_multi_label.py::test_features_without_sets_and_other_protocols_are_refused",
    "Open their images with labelled=True":
        "test_multi_label.py::test_features_without_sets_and_other_protocols_are_refused",
    "no learning rate can be chosen. Give more.":
        "test_multi_label.py::test_features_without_sets_and_other_protocols_are_refused",
    "Give test images with some.": "test_multi_label.py::test_scores_that_cannot_be_measured_are_refused",
    "has no format. Write it again": "test_chosen.py::test_other_files_are_refused",
    "of names (found: \0). Write it again": "test_chosen.py::test_other_files_are_refused",
    "proposes to keep no image. Give other": "test_chosen.py::test_other_files_are_refused",
    "Check the same DATA again, or restore them.": "test_chosen.py::test_other_files_are_refused",
    "Write it with `lookalike check DATA --out FILE`.":
        "test_chosen.py::test_a_missing_file_is_said_before_anything_is_imported",
    "--out FILE.json writes their names, and --only": "test_chosen.py::test_check_says_it_in_a_line",
    "--only \0": "test_chosen.py::test_training_on_them_equals_a_list_of_them_and_resumes",
    "Fill it in, or remove the line.": "test_tables.py::test_bad_lists_are_refused_with_the_line",
    "Give a list with one image per line.": "test_tables.py::test_bad_lists_are_refused_with_the_line",
    "cannot be read as a list of images": "test_tables.py::test_bad_lists_are_refused_with_the_line",
    "Restore it; an interrupted run continues with --resume.":
        "test_archives.py::test_an_index_is_built_once_and_again_after_a_change",
    "Give archives with images (.jpg, .png, .tif ...).": "test_archives.py::test_bad_archives_are_refused_by_name",
    "Add its class as {}.cls.": "test_archives.py::test_labels_that_are_numbers_are_ordered_as_numbers",
    "Name the array of images": "test_array_files.py::test_bad_arrays_are_refused_by_name",
    "Give an array of images.": "test_array_files.py::test_bad_arrays_are_refused_by_name",
    "Store decoded images of one size": "test_array_files.py::test_objects_are_refused",
    "Add an array \0 (N,) beside it.": "test_array_files.py::test_labels_lie_beside_the_images",
    "Write the array with chunks of one image": "test_array_files.py::test_large_chunks_are_noted",
    "Write it without compression": "test_row_files.py::test_compressed_arrow_files_are_refused_and_others_are_read",
    "\0 holds the splits \0. Give one of them":
        "test_row_files.py::test_folders_of_save_to_disk_are_refused_if_something_is_missing",
    "Save the data set again: ":
        "test_row_files.py::test_folders_of_save_to_disk_are_refused_if_something_is_missing",
    "Copy the folder again.": "test_row_files.py::test_folders_of_save_to_disk_are_refused_if_something_is_missing",
    "run \0, copy FOLDER to this machine":
        "test_hub.py::test_a_named_data_set_is_downloaded_and_read_without_a_network_later",
    "Check the name, or log in with ":
        "test_hub.py::test_a_named_data_set_is_downloaded_and_read_without_a_network_later",
    "has several configurations (\0). Choose one":
        "test_hub.py::test_a_named_data_set_is_downloaded_and_read_without_a_network_later",
    "\0 has the splits \0. Name one of them":
        "test_hub.py::test_a_named_data_set_is_downloaded_and_read_without_a_network_later",
    "Unset HF_DATASETS_IN_MEMORY_MAX_SIZE": "test_hub.py::test_a_data_set_in_memory_is_refused",
    "Give hf:NAME, hf:NAME@REVISION or hf:NAME:SPLIT.": "test_hub.py::test_names_of_the_hub",
    "Write the file with smaller ones": "test_row_files.py::test_slow_row_groups_are_noted_with_what_to_do",
    "Give files with one image per row.": "test_row_files.py::test_bad_columns_are_refused_by_name",
    "Add a column \0 of integers or texts": "test_row_files.py::test_labels_that_are_no_classes_are_named",
    "Give them alone.": "test_row_files.py::test_files_of_different_columns_are_refused",
    "Correct them.": "test_row_files.py::test_equal_columns_and_texts_that_are_no_utf8_are_refused",
    "has no usable \0: \0. Correct it.":
        "test_row_files.py::test_groups_and_splits_follow_the_images_and_columns_may_have_other_names",
    "in the path of row \0. Correct it.": "test_row_files.py::test_bad_columns_are_refused_by_name",
    "Fill it in, or remove the row.": "test_row_files.py::test_bad_columns_are_refused_by_name",
    "Store files, not pixels or texts": "test_row_files.py::test_bad_columns_are_refused_by_name",
    "has several columns of images: ": "test_row_files.py::test_several_columns_of_images_are_refused",
    "Name the column with the bytes of image files": "test_row_files.py::test_bad_columns_are_refused_by_name",
    "Images need different names: ": "test_archives.py::test_bad_archives_are_refused_by_name",
    "Copy the archive again.": "test_archives.py::test_bad_archives_are_refused_by_name",
    "Create or copy it again.": "test_archives.py::test_bad_archives_are_refused_by_name",
    "Create it again without sparse files (option -S of tar).":
        "test_archives.py::test_bad_archives_are_refused_by_name",
    "Create it again without a password.": "test_archives.py::test_bad_zip_archives_and_members_are_named",
    "Give a smaller range.": "test_archives.py::test_brace_patterns_are_expanded_as_a_shell_does",
    "Check the encoder: its training may have diverged.":
        "test_serving.py::test_an_encoder_that_diverged_is_not_served",
    "\0 See /docs.": "test_serving.py::test_other_paths_and_methods_get_errors_as_json",
    "Give --accumulate 2 or more, or leave --joint-loss out.":
        "test_joint_loss.py::test_what_a_joint_loss_is_not_for_is_refused",
    "Leave --joint-loss out.": "test_joint_loss.py::test_what_a_joint_loss_is_not_for_is_refused",
    "for each of \0 processes. Give a multiple of \0.":
        "test_joint_loss.py::test_what_a_joint_loss_is_not_for_is_refused",
    "BatchNorm needs at least 2. Give a smaller --accumulate.":
        "test_joint_loss.py::test_what_a_joint_loss_is_not_for_is_refused",
    "not as in an undivided batch: drop path and dropout draw":
        "test_joint_loss.py::test_the_second_run_draws_the_numbers_of_the_first",
    "Give micro-batches (--accumulate), --checkpoint-activations, or a smaller ":
        "test_memory.py::test_a_real_lack_of_memory",
    "Resume with: \0 \0": "test_memory.py::test_a_run_resumes_with_what_fits",
    "Give a smaller --image-size or --backbone.": "test_memory.py::test_too_little_for_any_change",
    "Use the largest batch of the estimate.": "test_memory.py::test_the_command",
    "Use /embed, or serve a finetune run.": "test_serving.py::test_an_encoder_has_no_predictions",
    "There is no model \0 of version \0. Use \0.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "the limit of --max-upload-mb. Send fewer images": "test_serving.py::test_what_an_error_advises_is_accepted",
    "the limit of --max-pixels. Send fewer or smaller": "test_serving.py::test_what_an_error_advises_is_accepted",
    "the limit of --max-batch. Send fewer.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "Send a text, or leave it out.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "Send a list, or leave it out.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "There is no output \0. Choose from \0.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "\0 is not supported. Leave it out.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "Check the images; binary outputs can hold them.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "Let the HTTP library write it.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "Let an HTTP library write it.": "test_serving.py::test_what_an_error_advises_is_accepted",
    "Try it: \0": "test_serving_faults.py::test_sigterm_under_load_loses_no_accepted_request",
    "is no address of this machine": "test_serving_faults.py::test_a_port_in_use_is_named",
    "Give another --port, or stop what uses it.": "test_serving_faults.py::test_a_port_in_use_is_named",
    "Start the server again to serve the new file.":
        "test_serving_faults.py::test_a_killed_worker_is_started_again_unless_its_file_was_replaced",
    "Try --workers 1, which shows why.": "test_serving_faults.py::test_workers_say_why_they_cannot_begin",
    "Leave one of them out.": "test_serving.py::test_settings_that_cannot_work_are_refused",
    "Give --token-file FILE, or --no-token":
        "test_serving.py::test_other_hosts_need_a_token_or_say_that_they_need_none",
    "Make a token: openssl": "test_serving.py::test_unusable_tokens_are_refused",
    "Make one: openssl": "test_serving.py::test_unusable_tokens_are_refused",
    "Give a file that holds one token.": "test_serving.py::test_unusable_tokens_are_refused",
    "Install it: pip install -e . in the folder": "test_doctor.py::test_a_source_tree_that_is_not_installed_is_told",
    " is an export, whose weights cannot be trained":
        "test_exports_command.py::test_what_an_export_cannot_do_is_refused_in_one_line",
    "or export the encoder again with --dynamic-size.":
        "test_exports_command.py::test_a_file_of_any_size_takes_another_image_size",
    "onnxruntime cannot load ": "test_exports.py::test_a_truncated_file_is_refused",
    "it gives features only. Export the folder of a finetune run":
        "test_exports_command.py::test_what_an_export_cannot_do_is_refused_in_one_line",
    "Next: the code in ": "test_exports_command.py::test_the_command_says_what_it_wrote_and_what_is_next",
    "is an export already. Give the run that it was exported from.":
        "test_exports_command.py::test_what_an_export_cannot_do_is_refused_in_one_line",
    "Repeat the command with --check DATA and --overwrite.":
        "test_exports_files.py::test_without_images_it_is_not_verified",
    "**Not verified**: there were no images.": "test_exports_files.py::test_without_images_it_is_not_verified",
    " is not a folder. Give another --out.": "test_exports_files.py::test_other_folders_are_left_alone",
    "int8 needs images to measure": "test_exports_files.py::test_int8_needs_images",
    "Give other images with --calibrate DATA.": "test_exports_files.py::test_only_broken_images_are_none",
    "Give lookalike.backbones.create(module, channels=...":
        "test_exports_files.py::test_a_module_of_ones_own_is_wrapped_first",
    "holds an export. Give another --out, or --overwrite.":
        "test_exports_files.py::test_an_export_is_replaced_only_on_request",
    "is not empty and holds no export. Give another --out.": "test_exports_files.py::test_other_folders_are_left_alone",
    "was not exported by lookalike": "test_exports_command.py::test_what_an_export_cannot_do_is_refused_in_one_line",
    "is an export, which needs no backbone.":
        "test_exports_command.py::test_what_an_export_cannot_do_is_refused_in_one_line",
    "is exported in \0 only. Leave --precision out.": "test_exports_files.py::test_options_that_do_not_fit_are_refused",
    "There is no format \0. Choose from": "test_exports_files.py::test_options_that_do_not_fit_are_refused",
    "There is no precision \0. Choose from": "test_exports_files.py::test_options_that_do_not_fit_are_refused",
    "TensorRT has no 64-bit numbers": "test_exports_files.py::test_options_that_do_not_fit_are_refused",
    "takes images of any size and crops them": "test_exports_files.py::test_options_that_do_not_fit_are_refused",
    "is a link to another folder. Give another --out.": "test_triton.py::test_a_link_out_of_the_folder_is_not_followed",
    " models ready: \0. Choose one with --model.":
        "test_triton.py::test_the_client_takes_the_only_model_that_is_ready",
    "Name the other model to serve it:": "test_triton.py::test_its_values_are_those_of_onnxruntime_bit_for_bit",
    "python \0 photo.jpg --url 127.0.0.1:8000": "test_triton.py::test_the_client_gives_the_features_of_embed",
    'pip install "tritonclient[http]" pillow': "test_triton.py::test_the_client_gives_the_features_of_embed",
    "resizes and crops before it sends": "test_triton.py::test_the_client_gives_the_features_of_embed",
    "Start it as README.md shows, or take it off PATH": "test_triton.py::test_a_server_that_does_not_start_is_reported",
    " needs a graph, but ": "test_exports_files.py::test_options_that_do_not_fit_are_refused",
    "such as x.shape[0] in a Python condition.": "test_exports.py::test_a_graph_with_a_frozen_batch_is_refused",
    " cannot be exported to ONNX: ": "test_exports.py::test_a_module_that_makes_the_batch_a_constant_is_refused",
    " cannot be exported by torch.export: ":
        "test_exports.py::test_a_module_that_makes_the_batch_a_constant_is_refused",
    "Use --format onnx or pt2.": "test_exports_files.py::test_what_timm_cannot_build_is_refused",
    " cannot run the export on ": "test_exports.py::test_a_frozen_batch_fails_when_the_file_is_verified",
    "Preprocessing in the graph takes uint8 images":
        "test_exports_files.py::test_deep_images_do_not_fit_the_preprocessing",
    " is an export without ": "test_exports_command.py::test_what_an_export_cannot_do_is_refused_in_one_line",
    "and taking it out needs onnx: pip install 'lookalike[onnx]'":
        "test_exports_command.py::test_without_onnx_the_extra_is_named",
    "Leave --nodes out, and give --gpus-per-node 1 or 0.": "test_slurm.py::test_a_comparison_takes_one_device",
    "--array runs the trainings of compare, but the command is":
        "test_slurm.py::test_options_that_cannot_be_used_are_named",
    "Give a shell file that the job can read.": "test_slurm.py::test_options_that_cannot_be_used_are_named",
    "give --dry-run; on the cluster it is submitted by sbatch FILE.":
        "test_slurm.py::test_without_sbatch_the_script_can_be_printed",
    "Expected the command of a training after --":
        "test_slurm.py::test_commands_that_cannot_be_submitted_are_usage_errors",
    "--overwrite would replace the job's own run":
        "test_slurm.py::test_commands_that_cannot_be_submitted_are_usage_errors",
    "The command has no --out.": "test_slurm.py::test_commands_that_cannot_be_submitted_are_usage_errors",
    ". Leave --\0 out of the command":
        "test_slurm.py::test_commands_that_cannot_be_submitted_are_usage_errors",
    "; expected at most \0, one process per GPU.": "test_slurm.py::test_options_that_cannot_be_used_are_named",
    "Give a longer --time, or a smaller --notice.": "test_slurm.py::test_options_that_cannot_be_used_are_named",
    "expected a time limit as sbatch takes it. Give minutes":
        "test_slurm.py::test_options_that_cannot_be_used_are_named",
    "which a batch script cannot hold. Rename it.": "test_slurm.py::test_options_that_cannot_be_used_are_named",
    "was not written by lookalike slurm. Move it away":
        "test_slurm.py::test_a_job_is_submitted_with_its_script_beside_the_run",
    "Give --epochs instead of --budget, or leave --training out.":
        "test_compare_runner.py::test_what_cannot_run_apart_is_refused",
    "overwrite would replace the other trainings.": "test_compare_runner.py::test_what_cannot_run_apart_is_refused",
    "The same command without --training evaluates and ranks all":
        "test_compare_runner.py::test_trainings_that_ran_apart_are_ranked_as_those_of_one_command",
    "Install the same versions for all.": "test_watchdog.py::test_a_process_that_trains_something_else_is_told_apart",
    "Install the same version for all, from the same place.":
        "test_watchdog.py::test_a_process_that_trains_something_else_is_told_apart",
    "Give all the same images.": "test_watchdog.py::test_a_process_that_trains_something_else_is_told_apart",
    "Start all with the same command.": "test_watchdog.py::test_a_process_that_trains_something_else_is_told_apart",
    "Give all the same --out, on a file system":
        "test_watchdog.py::test_facts_are_compared_and_a_process_that_does_not_arrive_is_named",
    "Give the environment variable MASTER_PORT a free one": "test_watchdog.py::test_a_port_in_use_is_named",
    "Give the seconds that processes wait for each other.":
        "test_watchdog.py::test_a_limit_that_is_no_time_is_refused",
    "needs onnxruntime: pip install 'lookalike[onnx]'":
        "test_exports_command.py::test_without_onnxruntime_the_extra_is_named",
    "a DICOM file without pixels": "test_dicom.py::test_files_without_pixels_are_left_out_and_counted",
    "contains no images (\0). Give a folder with images.":
        "test_dicom.py::test_files_without_pixels_are_left_out_and_counted",
    "in files of other types, values are from": "test_pixels.py::test_check_proposes_a_scale_for_other_types",
    "Give --scale range LOW HIGH.": "test_pixels.py::test_percentiles_that_cannot_be_measured_are_refused",
    "or --scale range LOW HIGH.": "test_pixels.py::test_percentiles_that_cannot_be_measured_are_refused",
    "Give --channels \0, or choose some with --bands":
        "test_remarks.py::test_a_file_of_many_bands_says_so_and_what_it_advises_works",
    "Give for instance --scale range 0 4095.": "test_pixels.py::test_a_scale_of_another_form_is_refused",
    "Give as many --bands as --channels": "test_pixels.py::test_bands_determine_the_channels",
    "Give LOW HIGH once, or once per channel.": "test_pixels.py::test_bands_determine_the_channels",
    "Give for instance bands=(4, 3, 2).": "test_pixels.py::test_bands_determine_the_channels",
    "Give another --stride.": "test_tiles.py::test_a_stride_leaves_nothing_out",
    "Give --tile, too.": "test_tiles.py::test_a_stride_leaves_nothing_out",
}  # fmt: skip
"""A part of a text, and the test that meets the message and follows it."""

UNTRIED = {
    "Update lookalike.": "it takes a later version, which there is not yet",
    "its license is the GPL": "it takes a package under the GPL",
    "pip install --upgrade pillow": "it takes an older Pillow",
    "There is not enough memory. Take fewer --workers": "it takes a machine whose memory is full",
    "Check the disk.": "it takes a disk that fails",
    "Check in nvidia-smi which processes use it": "it takes a GPU that fails",
    "Give at most one worker per GPU.": "it takes several GPUs",
    "Update NVIDIA's driver": "it takes a GPU and an older driver",
    "Install torch and torchvision with CUDA": "it takes a GPU",
    "install torch and torchvision for the CUDA version": "it takes a GPU",
    "TensorRT cannot read ": "it takes a GPU",
    "TensorRT cannot build an engine": "it takes a GPU",
    "Export its encoder.safetensors to timm": "no network that trains here has such a head in timm",
    "Reboot the machine": "it takes a machine that can be rebooted",
    "start from published weights, which are downloaded": "it takes a connection",
    " is for the backend onnxruntime, for example in ": "it takes NVIDIA's container",
    "Choose \0.": "whoever reads the table chooses",
    "Choose by the protocol that is closest to your use of the features.": "whoever reads the table chooses",
}
"""A part of a text, and why no test can follow it."""

FACTS = (
    "# Written by lookalike slurm.",
    "#SBATCH --requeue",
    '"$python" -m lookalike ',
    "srun --kill-on-bad-exit=1",
    "then resume=(--resume); fi",
    ' --training "${trainings[$SLURM_ARRAY_TASK_ID]}"',
    ", exported by lookalike ",
    "a --scale per band",
    "take the bands \0 in this order",
    "--tile \0 --stride \0",
    "--bands \0",
    "--scale \0",
    "(bicubic, antialiased), crop the centre of",
    "with --time \0",
    "Name and version of the server.",
    "without --time",
    "for the first step (--compile)",
    ", but this machine has ",
    "the fewest operations of `list backbones --small`",
    "the encoder forgets what --init knew",
    "the encoder forgot part of what --init knew",
)
"""Texts that name an option and advise nothing."""


@cache
def met() -> dict[str, list[tuple[str, str]]]:
    """For the pattern of each row the texts that it meets, and what of them."""
    texts = [each.text for each in advice()]
    wanted = {row.advice for table in TABLES for row in table.values()}
    return {
        pattern: [(text, found[0]) for text in texts if (found := re.search(pattern, text))]
        for pattern in sorted(wanted)
    }


def test_every_text_that_advises_something_is_tried() -> None:
    by_rows = {text for texts in met().values() for text, _ in texts}
    parts = (*TRIED_ELSEWHERE, *UNTRIED, *FACTS)
    assert not [each for each in advice() if each.text not in by_rows and not any(part in each.text for part in parts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\0 is full. Free some of it.", True), ("\0 images. Number of them: 3", False), ("Give one.", True),
        ("\0 is full; take another.", True), ("\0 lacks one, which --epochs gives.", True), ("Next: \0", True),
        ("`lookalike check` says why.", True), ("\0 is 3; it must be at least 4.", False),
        ("of which 3 give no features", False), ("lookalike pretrain METHOD DATA [options]", False),
        ("begun with lookalike \0", False), ("--epochs", False),
    ],
)  # fmt: skip
def test_what_counts_as_advice(text: str, expected: bool) -> None:
    assert advises(text) is expected


def test_every_row_is_about_a_text_that_there_is() -> None:
    assert not [pattern for pattern, texts in met().items() if not texts]
    parts = (*TRIED_ELSEWHERE, *UNTRIED, *FACTS)
    assert not [part for part in parts if not any(part in each.text for each in advice())]


def test_no_pattern_is_so_wide_that_it_meets_unlike_texts() -> None:
    """Texts that one pattern meets differ in what is put into them, and not in what they advise."""
    alike = {
        pattern: {re.sub(r"--out\b|\0|(?<=lookalike\[)\w+", "?", part) for _, part in texts}
        for pattern, texts in met().items()
    }
    assert not {pattern: parts for pattern, parts in alike.items() if len(parts) > 3}


@pytest.mark.parametrize("part", TRIED_ELSEWHERE)
def test_what_is_tried_elsewhere_is(part: str) -> None:
    file, _, name = TRIED_ELSEWHERE[part].partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
